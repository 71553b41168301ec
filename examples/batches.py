"""Hand in requests to be answered later. Needs the scope GIGACHAT_API_CORP.

Without an argument it hands in a batch and prints its id. With the id of a batch it prints how far it has come, and
the answers once it is completed.
"""

import sys

from gigachat_lite import ChatCompletion, GigaChat

QUESTIONS = ["What is a noun?", "What is a verb?", "What is an adverb?"]

with GigaChat() as client:
    if len(sys.argv) < 2:
        batch = client.create_batch(QUESTIONS)
        print(f"{batch.request_counts.total} requests handed in. Look later: {sys.argv[0]} {batch.id}")
        sys.exit()

    batch = client.get_batch(sys.argv[1])
    print(f"{batch.id} is {batch.status}")
    if batch.status == "completed":
        for answered in client.batch_results(batch):  # in any order: the id is the place in the list
            if answered.result is None:
                print(f"{QUESTIONS[int(answered.id)]} failed: {answered.error}")
                continue
            answer = ChatCompletion.from_dict(answered.result)
            print(f"{QUESTIONS[int(answered.id)]} {answer.choices[0].message.content}")

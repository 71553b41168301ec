"""Ask about a picture: one whose path is given, or else one that the model draws first."""

import sys

from gigachat_lite import GigaChat, file_ids

with GigaChat() as client:
    if len(sys.argv) > 1:
        picture = client.upload_file(sys.argv[1])
    else:
        drawn = client.chat({"messages": ["Draw a cat in a hat"], "function_call": "auto"})
        (file_id,) = file_ids(drawn)  # the answer shows it as <img src="...">
        picture = client.upload_file(("cat.jpg", client.download_file(file_id)))
    print(f"{picture.filename}: {picture.bytes} bytes, stored as {picture.id}")

    question = {"role": "user", "content": "What is in this picture?", "attachments": [picture.id]}
    print(client.chat([question]).choices[0].message.content)
    client.delete_file(picture.id)

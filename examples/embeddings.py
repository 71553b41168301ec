"""Find the texts that are nearest to a question."""

from gigachat_lite import GigaChat

TEXTS = [
    "How to renew a passport",
    "Opening hours of the library",
    "What to do when you have lost your library card",
    "Bus timetable for the summer",
]
QUESTION = "I lost my library card"


def similarity(one: list, other: list) -> float:
    """Give the cosine of the angle between two vectors: 1 for the same direction."""
    product = sum(a * b for a, b in zip(one, other))
    return product / (sum(a * a for a in one) * sum(b * b for b in other)) ** 0.5


with GigaChat() as client:
    vectors = [item.embedding for item in client.embeddings(TEXTS).data]
    wanted = client.embeddings(QUESTION).data[0].embedding

print(f"{QUESTION}? ({len(wanted)} dimensions)")
nearest = sorted(zip(TEXTS, vectors), key=lambda pair: similarity(pair[1], wanted), reverse=True)
for text, vector in nearest[:3]:
    print(f"{similarity(vector, wanted):.2f}  {text}")

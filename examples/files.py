"""Store a file, list what is stored, ask about the file, get it back, delete it."""

import tempfile
from pathlib import Path

from gigachat_lite import GigaChat

with GigaChat() as client, tempfile.TemporaryDirectory() as directory:
    path = Path(directory, "story.txt")
    path.write_text("In a hole in the ground there lived a hobbit.", encoding="utf-8")
    stored = client.upload_file(path)  # or open(path, "rb"), or ("story.txt", b"...")
    print(f"{stored.filename} is stored as {stored.id}")

    for file in client.get_files().data:
        print(f"{file.id}  {file.bytes} bytes  {file.filename}")

    question = {"role": "user", "content": "Who lives in the hole?", "attachments": [stored.id]}
    print(client.chat([question]).choices[0].message.content)

    copy = Path(directory, "copy.txt")
    client.download_file(stored.id, copy)  # in constant memory; without a path it gives the bytes
    print(f"The copy is the same: {copy.read_bytes() == path.read_bytes()}")
    print(f"Deleted: {client.delete_file(stored.id).deleted}")

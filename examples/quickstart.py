#!/usr/bin/env python3
"""A first conversation: a chat, a stream that prints as it arrives, and an async chat.

    python3 examples/quickstart.py ["question"]

Talks to GigaChat if a variable says how to log in, and otherwise to the local server of this repository.
"""

import asyncio
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # for when gigachat_lite is not installed
from gigachat_lite import GigaChat, GigaChatException  # noqa: E402
from local_server import LocalServer  # noqa: E402

LOGINS = ("GIGACHAT_CREDENTIALS", "GIGACHAT_ACCESS_TOKEN", "GIGACHAT_USER", "GIGACHAT_CERT_FILE")
question = os.fsencode(" ".join(sys.argv[1:]) or "What can you do?").decode("utf-8", "replace")
sys.stdout.reconfigure(errors="replace")  # the terminal may lack Cyrillic
talks_to = "GigaChat"
try:
    if not any(map(os.environ.get, LOGINS)):
        server = LocalServer(tls=(str(ROOT / "tests/certs/server.pem"), str(ROOT / "tests/certs/server.key"))).start()
        os.environ.update({**server.environment(), "NO_PROXY": "localhost", "no_proxy": "localhost"})
        talks_to = f"a local server, since none of {', '.join(LOGINS)} is set"
    with GigaChat() as client:
        print(f"This talks to {talks_to}: {client}.\n\n--- client.chat({question!r})")
        answer = client.chat(question)
        print(f"{answer.choices[0].message.content}\n({answer.model}, {answer.usage.total_tokens} tokens)")
        print(f"\n--- client.stream({question!r})")
        for chunk in client.stream(question):
            print(chunk.choices[0].delta.content or "", end="", flush=True)
        print(f"\n\n--- await client.achat({question!r})")
        print(asyncio.run(client.achat(question)).choices[0].message.content)
except GigaChatException as error:
    sys.exit(f"{type(error).__name__}: {error}")
except KeyboardInterrupt:
    sys.exit(130)

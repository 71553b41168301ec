"""examples/drop_in: the client under the name of the official SDK: modules, manners, requests, the three ways in.

Each test runs programs of its own, for the drop-in changes the classes in place. They expect what SDK 0.2.3 does.
"""

import base64
import hashlib
import importlib.util
import json
import os
import shutil
import zipfile

import pytest
from conftest import MODULE, ROOT, copy_module, output_of

DROP_IN = ROOT / "examples" / "drop_in"
VERSION = "0.2.3+lite"
# fmt: off
MODULES = [
    "gigachat", "gigachat.client", "gigachat.context", "gigachat.exceptions", "gigachat.settings",
    "gigachat.assistants", "gigachat.threads", "gigachat._types", "gigachat.api", "gigachat.api.utils",
    "gigachat.resources", "gigachat.resources.chat", "gigachat.models", "gigachat.models.assistants",
    "gigachat.models.auth", "gigachat.models.base", "gigachat.models.chat", "gigachat.models.chat_completions",
    "gigachat.models.embeddings", "gigachat.models.files", "gigachat.models.models",
    "gigachat.models.response_format", "gigachat.models.threads", "gigachat.models.tools",
    "gigachat.models.messages", "gigachat.models.messages_role", "gigachat.models.chat_completion",
    "gigachat.models.chat_completion_chunk", "gigachat.models.usage", "gigachat.models.ai_check_result",
    "gigachat.models.open_api_functions",
]
# fmt: on


@pytest.fixture
def program(tmp_path):
    """Run a program beside which both files lie, without any installed package; give its output."""
    shutil.copy(str(DROP_IN / "gigachat.py"), str(tmp_path))
    copy_module(tmp_path / "gigachat_lite.py")

    def run(code, **environment):
        return output_of("-S", "-c", code, cwd=tmp_path, **{"PYTHONPATH": str(tmp_path), **environment})

    return run


@pytest.fixture
def official(tmp_path):
    """Make a directory with something that could be the official SDK."""
    package = tmp_path / "site" / "gigachat"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("class GigaChat: pass\n", encoding="utf-8")
    return package.parent


# ---------- modules


def test_modules(program):
    """Each is a module like any other: with a spec, below its parent, with all public names; packages have a path."""
    program(f"""
import importlib, sys, types, gigachat_lite
names = {MODULES!r}
for name in names:
    module = importlib.import_module(name)
    assert type(module) is types.ModuleType and module is sys.modules[name], name
    assert (module.__name__, module.__spec__.name, module.__package__) == (name, name, module.__spec__.parent), name
    package = any(other.startswith(name + ".") for other in names)
    assert getattr(module, "__path__", None) == ([] if package else None), name
    parent, _, child = name.rpartition(".")
    assert not parent or getattr(sys.modules[parent], child) is module, name
    for public in gigachat_lite.__all__:
        if name != "gigachat.models.chat_completions":
            assert getattr(module, public) is getattr(gigachat_lite, public), (name, public)
""")


def test_names(program):
    """What some modules have for themselves; in chat_completions the classes of chat v2 have the SDK's bare names."""
    program("""
import gigachat_lite as lite
from gigachat import *
from gigachat._types import FileContent, FileTypes
from gigachat.api.utils import build_headers
from gigachat.client import GIGACHAT_MODEL
from gigachat.models.chat_completions import ChatCompletionChunk as Chunk, ChatFunctionCall as Call, ChatMessage
from gigachat.settings import AUTH_URL, BASE_URL, ENV_PREFIX, SCOPE
assert GigaChat is lite.GigaChat and ENV_PREFIX == "GIGACHAT_"
settings = GigaChat()._settings
assert (GIGACHAT_MODEL, AUTH_URL, BASE_URL, SCOPE) == (
    settings.model, settings.auth_url, settings.base_url, settings.scope)
assert (Chunk, Call) == (lite.PrimaryChatCompletionChunk, lite.PrimaryChatFunctionCall)
assert ChatMessage is lite.ChatMessage and ChatCompletionChunk is lite.ChatCompletionChunk
session_id_cvar.set("s")
headers = build_headers("t")
assert headers["Authorization"] == "Bearer t" and headers["X-Session-ID"] == "s"
""")


@pytest.mark.parametrize(
    ("statement", "error"),
    [
        ("import gigachat.retry", "ModuleNotFoundError: gigachat.retry: gigachat_lite stands in for gigachat here"),
        ("from gigachat.api import chat", "ImportError: cannot import name 'chat' from 'gigachat.api'"),
        ("from gigachat.settings import Settings", "ImportError: gigachat.settings.Settings needs pydantic-settings"),
        ("import gigachat.settings; gigachat.settings.nothing", "AttributeError: module 'gigachat.settings' has no"),
    ],
)
def test_what_is_not_here(program, statement, error):
    assert error in program(
        f"try: exec({statement!r})\nexcept Exception as error: print(f'{{type(error).__name__}}: {{error}}')"
    )


def test_threads(program):
    """Threads that import it at the same time get all of it."""
    program("""
import threading
import gigachat_lite
def load():
    barrier.wait()
    import gigachat
    from gigachat import GigaChat
    from gigachat.models import Chat
    done.append(gigachat.exceptions.RateLimitError)
barrier, done = threading.Barrier(8), []
threads = [threading.Thread(target=load) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert len(done) == 8
""")


def test_imports_nothing_foreign(program):
    """Beside gigachat_lite it needs nothing that is not loaded by then."""
    assert "[]" in program("""
import sys, gigachat_lite
before = {*sys.modules}
import gigachat
print([name for name in {*sys.modules} - before if name.partition(".")[0] != "gigachat"])
""")


# ---------- manners

MANNERS = [
    ("Messages(role=MessagesRole.USER, content='x', foo=1).role", "'user'"),
    ("type(Messages(role=MessagesRole.USER).role)", "<class 'str'>"),
    ("Usage(prompt_tokens=1, completion_tokens=2, total_tokens=3).dict()['precached_prompt_tokens']", "None"),
    ("CALL.model_dump()", "{'name': 'f', 'arguments': {'a': None}}"),
    ("dict(CALL)", "{'name': 'f', 'arguments': {'a': None}}"),
    ("dict(MODEL)['id_'], 'id' in dict(MODEL)", "('m', False)"),
    ("MODEL.model_dump(include={'id_', 'object_'})", "{'id_': 'm', 'object_': 'model'}"),
    ("MODEL.model_dump(include={'id_'}, by_alias=True)", "{'id': 'm'}"),
    ("'id' in MODEL.model_dump(exclude={'id_'}, by_alias=True)", "False"),
    ("CHAT.model_dump(exclude_unset=True)", "{'messages': [{'role': 'user', 'content': 'x'}]}"),
    ("CHAT.model_dump(exclude_defaults=True)", "{'messages': [{'role': 'user', 'content': 'x'}]}"),
    ("CHAT.model_dump(exclude_none=True)", "{'messages': [{'role': 'user', 'content': 'x'}]}"),
    ("CHAT.model_dump(exclude_none=True, round_trip=True, warnings=False)['messages'][0]['content']", "'x'"),
    ("CHAT.model_dump_json(exclude_none=True)", '\'{"messages":[{"role":"user","content":"x"}]}\''),
    ("MODEL.json(include={'id_'}, indent=1)", '\'{\\n "id_": "m"\\n}\''),
    ("Messages.model_validate({'role': 'user', 'foo': 1, 'content': 'x'}) == CHAT.messages[0]", "True"),
    ("Messages.parse_obj(CHAT.messages[0]) is CHAT.messages[0]", "True"),
    ('Messages.model_validate_json(\'{"role": "user"}\').role', "'user'"),
    ("Chat.model_validate(CHAT.model_dump()) == CHAT.model_copy(deep=True)", "True"),
    ("CHAT.model_copy(update={'model': 'M'}).model, CHAT.model", "('M', None)"),
    ("MODEL.model_copy(update={'id_': 'n'}).id", "'n'"),
    (
        "[*Chat.model_fields][0], 'id_' in Messages.model_fields, 'id' in Messages.model_fields",
        "('messages', True, False)",
    ),
    ("sorted(CHAT.messages[0].model_fields_set)", "['content', 'role']"),
    ("ChatMessage(role='user', content='x', foo=1).model_extra", "{'foo': 1}"),
    ("CHAT.messages[0].model_extra", "{}"),
    ("setattr(MODEL, 'id_', 'z'), MODEL.id", "(None, 'z')"),
    ("Chat(messages=(m for m in CHAT.messages)) == CHAT", "True"),
    ("LengthFinishReasonError(CHAT).completion is CHAT", "True"),
    ("'no' in str(ResponseError('http://a/b', 400, 'no', None))", "True"),
    ("pickle.loads(pickle.dumps(CHAT)) == CHAT", "True"),
    ("failure(lambda: Model.model_validate({'object': 'model'}))", "'ValueError'"),
    ("failure(lambda: Chat.model_validate({'messages': 'x'}))", "'ValueError'"),
    ("failure(lambda: Messages(content='x'))", "'ValueError'"),
    ("failure(lambda: CHAT.model_dump(include={'messages': {0}}))", "'TypeError'"),
]
OBJECTS = """
import pickle
from gigachat.exceptions import *
from gigachat.models import *
MODEL = Model(id="m", object="model", owned_by="o")
CALL = FunctionCall(name="f", arguments={"a": None}, id="c")
CHAT = Chat(messages=[Messages(role="user", content="x")])
def failure(function):
    try: return function()
    except Exception as error: return type(error).__name__
"""


def test_manners(program):
    """Models do what programs ask of pydantic's."""
    lines = program(OBJECTS + "".join(f"print(repr(failure(lambda: ({code}))))\n" for code, _ in MANNERS)).splitlines()
    assert list(zip([code for code, _ in MANNERS], lines)) == MANNERS


@pytest.mark.skipif(importlib.util.find_spec("pydantic") is None, reason="pydantic is not installed")
def test_pydantic(tmp_path):
    """Models are fields of pydantic's, as FastAPI needs it for arguments and a response_model."""
    paths = (str(DROP_IN), str(MODULE.parent))
    code = """
import sys
sys.path[:0] = sys.argv[1:]
from gigachat.models import Chat, Model
from pydantic import BaseModel, TypeAdapter, ValidationError
class Shown(BaseModel):
    model: Model
    chat: Chat
shown = Shown.model_validate({"model": {"id": "m"}, "chat": {"messages": [{"role": "user", "content": "x", "a": 1}]}})
assert type(shown.model) is Model and shown.chat.messages[0].content == "x"
dump = shown.model_dump(by_alias=True, exclude_none=True)
assert dump["model"]["id"] == "m" and dump["chat"] == {"messages": [{"role": "user", "content": "x"}]}, dump
assert TypeAdapter(Chat).json_schema()["title"] == "Chat"
for bad in ({"messages": 5}, {}, 5):
    try: TypeAdapter(Chat).validate_python(bad)
    except ValidationError: continue
    raise AssertionError(bad)
"""
    output_of("-c", code, *paths, cwd=tmp_path)


@pytest.mark.skipif(importlib.util.find_spec("pydantic_settings") is None, reason="pydantic-settings is not installed")
def test_settings(tmp_path):
    """gigachat.settings.Settings is a class of pydantic-settings: variables, defaults, types."""
    code = """
import sys
sys.path[:0] = sys.argv[1:]
from gigachat.settings import BASE_URL, Settings
class Own(Settings):
    more: int = 1
own = Own(scope="S")
assert (own.timeout, own.scope, own.base_url, own.model, own.more) == (5.0, "S", BASE_URL, None, 1)
"""
    output_of("-c", code, str(DROP_IN), str(MODULE.parent), cwd=tmp_path, GIGACHAT_TIMEOUT="5")


# ---------- requests

RICH = {
    "messages": [
        {"role": "system", "content": "s", "id": "1", "junk": 1},
        {"role": "user", "content": "u", "attachments": ["f"], "type": "human",
         "data_for_context": [{"role": "user", "content": "c", "junk": 1}]},
        {"role": "assistant", "content": "", "functions_state_id": "st", "tool_calls": [{"id": "c1"}],
         "function_call": {"name": "f", "arguments": {"a": None, "id": "a"}, "id": "c1", "type": "function"}},
        {"role": "function", "name": "f", "content": '{"r": 1}', "tool_call_id": "c1"},
    ],
    "functions": [{
        "name": "f", "description": "d", "strict": True, "type": "function",
        "parameters": {"type": "object", "properties": {"id": {"type": "string", "description": "an id"}}},
        "few_shot_examples": [{"request": "q", "params": {"id": "1"}, "junk": 1}],
        "return_parameters": {"type": "object", "anything": None},
    }],
    "function_call": {"name": "f", "partial_arguments": {"id": "z"}, "type": "function"},
    "function_ranker": {"enabled": True, "top_n": 3, "junk": 1},
    "response_format": {"type": "json_schema", "schema": {"type": "object", "junk": 1}, "strict": True, "junk": 1},
    "storage": {"is_stateful": True, "limit": 3, "metadata": {"k": None}, "junk": 1},
    "additional_fields": {"extra": {"a": None}},
    "temperature": 0.1, "profanity_check": False, "flags": ["x"], "stream": True, "junk": 1,
}  # fmt: skip
RICH_SENT = {
    "model": "GigaChat",
    "messages": [
        {"role": "system", "content": "s", "id": "1"},
        {"role": "user", "content": "u", "attachments": ["f"], "data_for_context": [{"role": "user", "content": "c"}]},
        {"role": "assistant", "content": "", "functions_state_id": "st",
         "function_call": {"name": "f", "arguments": {"a": None, "id": "a"}}},
        {"role": "function", "name": "f", "content": '{"r": 1}'},
    ],
    "functions": [{
        "name": "f", "description": "d",
        "parameters": {"type": "object", "properties": {"id": {"type": "string", "description": "an id"}}},
        "few_shot_examples": [{"request": "q", "params": {"id": "1"}}],
        "return_parameters": {"type": "object", "anything": None},
    }],
    "function_call": {"name": "f", "partial_arguments": {"id": "z"}},
    "function_ranker": {"enabled": True, "top_n": 3},
    "response_format": {"type": "json_schema", "schema": {"type": "object", "junk": 1}, "strict": True},
    "storage": {"is_stateful": True, "limit": 3, "metadata": {"k": None}},
    "extra": {"a": None},
    "temperature": 0.1, "profanity_check": False, "flags": ["x"],
}  # fmt: skip
USER = [{"role": "user", "content": "x"}]
V2 = {
    "messages": [{"role": "user", "content": [{"text": "x", "junk": 1}], "junk": 1}],
    "tools": [{"functions": {"specifications": [{
        "name": "f", "parameters": {"type": "object"}, "few_shot_examples": [{"request": "q", "params": {}, "junk": 1}],
    }]}}],
    "model_options": {"temperature": 0.1, "junk": 1},
}  # fmt: skip
BODIES = [
    ("chat(RICH)", RICH_SENT),
    ("chat(Chat.model_validate(RICH))", RICH_SENT),
    ("chat(Chat.model_validate(Chat.model_validate(RICH).model_dump(exclude_none=True, by_alias=True)))", RICH_SENT),
    ("chat(Chat(**RICH))", RICH_SENT),
    ("stream(RICH).__next__()", {**RICH_SENT, "stream": True}),
    ("chat('x')", {"messages": USER}),
    ("chat({'messages': []})", {"messages": []}),
    ("chat(Chat(messages=[]))", {"messages": []}),
    (
        "chat({'messages': USER, 'response_format': {'type': 'json_object'}})",
        {"messages": USER, "response_format": {"type": "json_object"}},
    ),
    (
        "chat({'messages': [dict(CALL)]})",
        {"messages": [{"role": "assistant", "content": "", "function_call": {"name": "f", "arguments": {}}}]},
    ),
    (
        "chat(Chat(messages=[Messages(role=MessagesRole.USER, content='x', id_='1', junk=1)], junk=1))",
        {"messages": USER},
    ),
    ("chat({'messages': [dict(Messages(role='user', content='x'))]})", {"messages": USER}),
    (
        "chat(Chat(messages=USER, functions=[Function(name='f', junk=1, few_shot_examples=[FewShotExample(request='q',"
        " params={}, junk=1)], parameters=FunctionParameters(properties={'a': {'type': 'number', 'minimum': 0}}))]))",
        {
            "messages": USER,
            "functions": [
                {
                    "name": "f",
                    "parameters": {"type": "object", "properties": {"a": {"type": "number", "minimum": 0}}},
                    "few_shot_examples": [{"request": "q", "params": {}}],
                }
            ],
        },
    ),
    ("chat.create(V2)", V2),
    ("chat.create(ChatCompletionRequest.model_validate(V2))", V2),
]


def test_requests(program, plain_server):
    """The bodies are the SDK's: what the API does not document is left out, but for JSON schemas and chat v2."""
    program(
        f"""
from gigachat import GigaChat
from gigachat.exceptions import GigaChatException
from gigachat.models import *
RICH, USER, V2 = {RICH!r}, {USER!r}, {V2!r}
CALL = Messages(role="assistant", function_call={{"name": "f", "arguments": {{}}, "id": "c", "type": "function"}})
with GigaChat(base_url={plain_server.base_url!r}, access_token="t") as client:
    for call in {[call for call, _ in BODIES]!r}:
        try: eval("client." + call)
        except GigaChatException: pass  # the server may not like it
"""
    )
    bodies = [json.loads(request.body) for request in plain_server.requests if request.path.endswith("completions")]
    assert bodies == [{"model": "GigaChat", **body} for _, body in BODIES]


# ---------- the three ways in


def test_beside_the_program(program, server):
    """A program finds the files in its own directory, or on its path."""
    code = "from gigachat import GigaChat\nwith GigaChat() as c: print(c.chat('yes').choices[0].message.content)"
    assert '"yes"' in program(code, **server.environment())


@pytest.mark.parametrize("name", ["sber_shim", "app.vendor.compat"])
def test_first_import(program, official, tmp_path, name):
    """Under any name, and inside a package, it takes the place of an installed SDK, once."""
    target = tmp_path.joinpath(*name.split(".")).with_suffix(".py")
    target.parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "gigachat.py").rename(target)
    if target.parent != tmp_path:
        (tmp_path / "gigachat_lite.py").rename(target.parent / "gigachat_lite.py")
    shutil.copy(str(target), str(tmp_path / "second.py"))
    program(
        f"""
import {name} as shim, gigachat, gigachat.models.chat, sys
from gigachat.models import Chat
lite = sys.modules[gigachat.GigaChat.__module__]
assert lite.__name__.endswith("gigachat_lite") and lite.Chat is Chat and shim is gigachat
if {"." not in name}:
    dump = lite.JSONObject.model_dump
    import second
    assert second is gigachat and lite.JSONObject.model_dump is dump
""",
        PYTHONPATH=os.pathsep.join([str(official), str(tmp_path)]),
    )


def test_after_the_official_sdk(program, official, tmp_path):
    """Whoever comes too late says where the other is."""
    shutil.copy(str(DROP_IN / "gigachat.py"), str(tmp_path / "sber_shim.py"))
    said = program(f"""
import sys
sys.path.insert(0, {str(official)!r})
import gigachat
try: import sber_shim
except ImportError as error: print(error)
""")
    assert str(official / "gigachat" / "__init__.py") in said and "before" in said


def test_wheel(program, tmp_path, server):
    """The wheel holds both files and says that it is gigachat 0.2.3+lite; its record is right."""
    shutil.copy(str(DROP_IN / "build_wheel.py"), str(tmp_path))
    output_of(tmp_path / "build_wheel.py", cwd=tmp_path)
    wheel = tmp_path / f"gigachat-{VERSION}-py3-none-any.whl"
    code = """
import importlib.metadata
from gigachat import GigaChat
print(importlib.metadata.version("gigachat"), GigaChat.__module__)
with GigaChat() as client: client.chat("yes")
"""
    assert program(code, PYTHONPATH=str(wheel), **server.environment()) == f"{VERSION} gigachat_lite\n"
    with zipfile.ZipFile(str(wheel)) as archive:
        record = archive.read(f"gigachat-{VERSION}.dist-info/RECORD").decode().splitlines()
        for name, digest, size in (line.split(",") for line in record[:-1]):
            content = archive.read(name)
            wanted = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
            assert (digest, int(size)) == (f"sha256={wanted}", len(content))
        assert sorted(archive.namelist()) == sorted(line.split(",")[0] for line in record)


# ---------- LangChain

LANGCHAIN = """
import asyncio, os, sys, warnings
warnings.simplefilter("ignore")
import gigachat, gigachat_lite
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_gigachat import GigaChat, GigaChatEmbeddings
from pydantic import BaseModel, Field

@tool
def get_weather(city: str) -> str:
    "Get the weather in a city."
    return "sunny in " + city

class Answer(BaseModel):
    "An answer."
    city: str = Field(description="The city")
    degrees: int = Field(description="The temperature")

assert gigachat.GigaChat is gigachat_lite.GigaChat
model, embeddings = GigaChat(timeout=20), GigaChatEmbeddings()

def check(answer):
    assert answer.content and answer.usage_metadata["total_tokens"], answer

def check_all():
    check(model.invoke("Hello"))
    assert "".join(chunk.content for chunk in model.stream("Hello"))
    asked = model.bind_tools([get_weather], tool_choice="get_weather").invoke("weather in Moscow")
    call = asked.tool_calls[0]
    assert call["name"] == "get_weather"
    result = ToolMessage(get_weather.invoke(call["args"]), tool_call_id=call["id"], name=call["name"])
    check(model.bind_tools([get_weather]).invoke([HumanMessage("weather in Moscow"), asked, result]))
    assert isinstance(model.with_structured_output(Answer).invoke("weather in Moscow"), Answer)
    assert len(embeddings.embed_documents(["a", "b"])) == 2 and embeddings.embed_query("a")

async def check_async():
    check(await model.ainvoke("Hello"))
    assert "".join([chunk.content async for chunk in model.astream("Hello")])
    for answer in await model.abatch(["Hello"] * 8):
        check(answer)
    asked = await model.bind_tools([get_weather], tool_choice="get_weather").ainvoke("weather in Moscow")
    assert asked.tool_calls
    assert isinstance(await model.with_structured_output(Answer).ainvoke("weather in Moscow"), Answer)
    assert len(await embeddings.aembed_documents(["a"])) == 1

check_all()
asyncio.run(check_async())
asyncio.run(check_async())
"""


@pytest.mark.skipif(
    importlib.util.find_spec("langchain_gigachat") is None, reason="langchain-gigachat is not installed"
)
def test_langchain(server, tmp_path):
    """Chat, stream, tools, structured output, embeddings; async and in batches, in two event loops; over TLS."""
    path = os.pathsep.join([str(DROP_IN), str(MODULE.parent)])
    output_of("-c", LANGCHAIN, cwd=tmp_path, **server.environment(), PYTHONPATH=path)
    assert len(server.requests) > 30

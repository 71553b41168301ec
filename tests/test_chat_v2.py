"""Chat of the second version: what is sent, where to, and what its answers and events become.

Answers are what the real service was recorded to send. Bodies are those that the official SDK 0.2.3 sends for the same
payload, but where a comment says otherwise.
"""

import asyncio
import copy
import json
import pickle
import warnings
from unittest import mock

import pytest
from conftest import raw_client
from faults import (
    LAST_CHUNK,
    STREAM_HEAD,
    RawServer,
    always,
    answer,
    chunk,
    closing,
    event,
    resetting,
    silent_after,
    well_behaved,
)

import gigachat_lite
from gigachat_lite import (
    APITimeoutError,
    Chat,
    ChatCompletionRequest,
    ChatCompletionResponse,
    ChatContentFile,
    ChatContentPart,
    ChatFunctionExample,
    ChatFunctionResult,
    ChatFunctionSpecification,
    ChatFunctionsTool,
    ChatLogprobToken,
    ChatMessage,
    ChatMessageChunk,
    ChatModelOptions,
    ChatReasoning,
    ChatResponseFormat,
    ChatStorage,
    ChatTool,
    ChatToolConfig,
    FunctionRanker,
    GigaChat,
    GigaChatAsyncClient,
    GigaChatSyncClient,
    InvalidResponseError,
    JsonSchemaResponseFormat,
    Messages,
    MessagesRole,
    PrimaryChatCompletionChunk,
    PrimaryChatFunctionCall,
    RateLimitError,
    ResponseError,
    ServerError,
    StreamInterruptedError,
    Thread,
    chat_completions_url_cvar,
    chat_url_cvar,
    file_ids,
    session_id_cvar,
)

HELLO = (
    '{"model":"GigaChat-3-Ultra:32.3.18.5","created_at":1780321855,"messages":[{"role":"assistant","content":[{"text":'
    '"Hello"}]}],"finish_reason":"stop","usage":{"input_tokens":19,"input_tokens_details":{"prompt_tokens":19,'
    '"cached_tokens":0},"output_tokens":2,"total_tokens":21}}'
)
CALL = (
    '{"model":"GigaChat-3-Ultra:32.3.18.5","created_at":1780321868,"messages":[{"role":"assistant","tool_state_id":'
    '"019e8373-dc9a-7883-af60-ebb20b79e1e1","content":[{"function_call":{"name":"get_order_status","arguments":'
    '{"order_id":"A-1024"}}}]}],"finish_reason":"function_call","usage":{"input_tokens":88,"input_tokens_details":'
    '{"prompt_tokens":88,"cached_tokens":0},"output_tokens":25,"total_tokens":113}}'
)
PICTURE = (
    '{"model":"GigaChat-3-Ultra:32.3.18.5","created_at":1780321868,"messages":[{"role":"assistant","tool_state_id":"s",'
    '"content":[{"files":[{"id":"f4b17167","mime":"image/jpeg","target":"image"}]},{"text":"A simple icon"}]}],'
    '"finish_reason":"stop"}'
)
COUNTING = """event: response.message.delta
data: {"model":"GigaChat-3-Ultra:32.3.18.5","created_at":1780321864,"messages":[{"role":"assistant","content":[{"text":"1, 2, 3"}]}]}

event: response.message.done
data: {"model":"GigaChat-3-Ultra:32.3.18.5","created_at":1780321864,"finish_reason":"stop","usage":{"input_tokens":19,"input_tokens_details":{"prompt_tokens":19,"cached_tokens":0},"output_tokens":8,"total_tokens":27}}

"""  # noqa: E501
SEARCH = """event: response.tool.in_progress
data: {"model":"GigaChat-3-Lightning","created_at":1790250877,"messages":[{"role":"assistant","content":[{"tool_execution":{"id":"","name":"web_search"}}]}]}

event: response.tool.completed
data: {"model":"GigaChat-3-Lightning","created_at":1790250878,"messages":[{"role":"assistant","content":[{"tool_execution":{"id":"","name":"web_search","status":"success"}}]}]}

event: response.message.delta
data: {"model":"GigaChat-3-Lightning","created_at":1790250878,"messages":[{"role":"assistant","content":[{"inline_data":{"images":[],"sources":{"10":{"url":"https://c","title":"C"},"2":{"url":"https://b","title":"B"},"1":{"url":"https://a","title":"A"}}}}]}]}

event: response.message.delta
data: {"model":"GigaChat-3-Lightning","created_at":1790250878,"messages":[{"role":"assistant","content":[{"text":"Sunny [sources=[1, 2]]."}]}]}

event: response.message.done
data: {"model":"GigaChat-3-Lightning","created_at":1790250878,"messages":[{"role":"assistant","tool_state_id":"01a0d344"}],"finish_reason":"stop","usage":{"input_tokens":3678,"input_tokens_details":{"prompt_tokens":3678,"cached_tokens":4071},"output_tokens":91,"total_tokens":3769}}

"""  # noqa: E501
USER = {"role": "user", "content": [{"text": "hi"}]}
METHODS = ["chat.create", "chat.stream"]


def respond(request):
    """Answer as chat v2 does."""
    if b'"stream": true' in request.body:
        return STREAM_HEAD + chunk(COUNTING.encode()) + LAST_CHUNK
    return answer(HELLO.encode())


@pytest.fixture
def recorder():
    with RawServer(always(respond)) as server:
        yield server


def named(name, data):
    return f"event: {name}\n".encode() + event(data)


def stream_of(*pieces, end=True):
    """Write a stream of events, each in a chunk of its own."""
    text = STREAM_HEAD + b"".join(map(chunk, pieces)) + (LAST_CHUNK if end else b"")
    return always(text) if end else closing(text)


# ---------- what is sent


def request_with_options_set_later():
    request = ChatCompletionRequest(messages=[USER], model_options=ChatModelOptions(temperature=0.5))
    request.reasoning = {"effort": "low"}
    request.response_format = ChatResponseFormat(type="json_schema", schema={"default": None}, strict=True)
    request.stream = True
    return request


def request_changed_later():
    request = ChatCompletionRequest(messages=[USER])
    request.messages.append({"role": "assistant", "content": "a", "functions_state_id": "s"})
    request.messages.append("b")
    request.tools, request.storage = ["web_search"], True
    return request


SCHEMA = {"type": "object", "properties": {"n": {"type": "integer", "default": None}}}
SPECIFICATION = {"name": "f", "description": "d", "parameters": SCHEMA}
CALLS = [
    {"role": "assistant", "content": [{"function_call": {"name": "f", "arguments": {"n": None}, "id": "1"}}]},
    {"role": "tool", "content": [{"function_result": {"name": "f", "result": {"n": None}, "id": "1"}}]},
]
# A payload, and what its body has besides the model "M" and the messages [USER].
BODIES = [
    ("hi", {}),
    (["hi"], {}),
    ({"messages": "hi"}, {}),  # which the SDK refuses
    ({"messages": [{"role": "user", "content": "hi"}]}, {}),
    ({"messages": [{"role": MessagesRole.USER, "content": {"text": "hi"}}]}, {}),
    ({"messages": [{"role": "user", "content": ["hi"]}]}, {}),
    ([ChatMessage(role="user", content=[ChatContentPart(text="hi")])], {}),
    (ChatCompletionRequest(messages=[ChatMessage(role="user", content="hi")], model="X"), {"model": "X"}),
    ({"messages": [{"role": "user"}]}, {"messages": [{"role": "user"}]}),
    (
        {"messages": [{"role": "user", "content": ["a", {"files": [{"id": "f", "x": 1}]}, ChatContentPart(text="b")]}]},
        {"messages": [{"role": "user", "content": [{"text": "a"}, {"files": [{"id": "f", "x": 1}]}, {"text": "b"}]}]},
    ),
    (
        {"messages": [{"role": "assistant", "content": "a", "tool_state_id": "t"}], "functions_state_id": "r"},
        {"messages": [{"role": "assistant", "content": [{"text": "a"}], "tools_state_id": "t"}], "tools_state_id": "r"},
    ),
    (
        [{"role": "assistant", "content": "a", "tool_state_id": "t", "tools_state_id": "u", "functions_state_id": "v"}],
        {"messages": [{"role": "assistant", "content": [{"text": "a"}], "tools_state_id": "u"}]},
    ),
    ({"messages": CALLS}, {"messages": CALLS}),
    (
        [
            ChatMessage(
                role="assistant",
                content=[
                    ChatContentPart(function_call=PrimaryChatFunctionCall(name="f", arguments={"n": None}, id="1"))
                ],
            ),
            ChatMessage(
                role="tool",
                content=ChatContentPart(function_result=ChatFunctionResult(name="f", result={"n": None}, id="1")),
            ),
        ],
        {"messages": CALLS},
    ),
    ({"messages": [USER], "storage": True}, {"storage": {}}),
    ({"messages": [USER], "storage": False}, {}),
    (
        {"messages": [USER], "storage": ChatStorage(limit=3, metadata={"a": None})},
        {"storage": {"limit": 3, "metadata": {"a": None}}},
    ),
    (
        {"messages": [USER], "storage": {"thread_id": "t", "x": 1}},
        {"storage": {"thread_id": "t", "x": 1}, "model": None},
    ),
    ({"messages": [USER], "assistant_id": "a"}, {"assistant_id": "a", "model": None}),
    ({"messages": [USER], "assistant_id": "a", "model": "Z"}, {"assistant_id": "a", "model": "Z"}),
    (
        {
            "messages": [USER],
            "reasoning": {"effort": "low"},
            "response_format": {"type": "json_schema", "schema": SCHEMA},
        },
        {
            "model_options": {
                "reasoning": {"effort": "low"},
                "response_format": {"type": "json_schema", "schema": SCHEMA},
            }
        },
    ),
    (
        {
            "messages": [USER],
            "reasoning": {"effort": "low"},
            "model_options": {"reasoning": {"effort": "high"}, "seed": 1},
        },
        {"model_options": {"reasoning": {"effort": "high"}, "seed": 1}},
    ),
    ({"messages": [USER], "temperature": 0, "top_p": None}, {"model_options": {"temperature": 0}}),  # 0.2.3: at the top
    (
        ChatCompletionRequest(messages=[USER], max_tokens=1, model_options=ChatModelOptions(max_tokens=2, preset="p")),
        {"model_options": {"max_tokens": 2, "preset": "p"}},
    ),
    (
        request_with_options_set_later,
        {
            "model_options": {
                "temperature": 0.5,
                "reasoning": {"effort": "low"},
                "response_format": {"type": "json_schema", "schema": {"default": None}, "strict": True},
            }
        },
    ),
    (
        request_changed_later,
        {
            "messages": [USER, {"role": "assistant", "content": [{"text": "a"}], "tools_state_id": "s"}]
            + [{"role": "user", "content": [{"text": "b"}]}],
            "tools": [{"web_search": {}}],
            "storage": {},
        },
    ),
    (
        {
            "messages": [USER],
            "tools": ["web_search", "image_generate", {"get_datetime": {}}, {"web_search": {"type": "x"}}],
        },
        {"tools": [{"web_search": {}}, {"image_generate": {}}, {"get_datetime": {}}, {"web_search": {"type": "x"}}]},
    ),
    (
        {
            "messages": [USER],
            "tools": [{"functions": {"specifications": [{"title": "f", "description": "d", **SCHEMA}]}}],
            "tool_config": {"mode": "any", "functions_names_any": ["f"]},
        },
        {
            "tools": [{"functions": {"specifications": [SPECIFICATION]}}],
            "tool_config": {"mode": "any", "functions_names_any": ["f"]},
        },
    ),
    (
        ChatCompletionRequest(
            messages=[USER],
            tools=[ChatTool(functions=ChatFunctionsTool(specifications=[ChatFunctionSpecification(**SPECIFICATION)]))],
            tool_config=ChatToolConfig(mode="forced", function_name="f"),
        ),
        {
            "tools": [{"functions": {"specifications": [SPECIFICATION]}}],
            "tool_config": {"mode": "forced", "function_name": "f"},
        },
    ),
    ({"messages": [USER], "tools": None, "flags": None}, {}),
    ({"messages": [USER], "profanity_check": True}, {"disable_filter": False}),
    ({"messages": [USER], "profanity_check": False}, {"disable_filter": True}),
    ({"messages": [USER], "profanity_check": False, "disable_filter": False}, {"disable_filter": False}),
    ({"messages": [USER], "stream": True}, {}),
    (
        {
            "messages": [{"role": "user", "x": 1, "content": [{"text": "hi", "y": [None]}]}],
            "model_options": {"z": {"a": None}},
            "w": {"b": None},
        },
        {
            "messages": [{"role": "user", "x": 1, "content": [{"text": "hi", "y": [None]}]}],
            "model_options": {"z": {"a": None}},
            "w": {"b": None},
        },
    ),
    (  # 0.2.3 sends additional_fields itself
        ChatCompletionRequest(
            messages=[USER], flags=["f"], additional_fields={"memory_id": "m", "stream": True, "flags": [], "x": None}
        ),
        {"memory_id": "m", "flags": ["f"], "x": None},
    ),
]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("payload", "body"), BODIES, ids=[str(number) for number in range(len(BODIES))])
def test_bodies(recorder, call, method, payload, body):
    """Each form of a payload becomes the API's, sync, async and streamed, and stays as it was."""
    payload = payload() if callable(payload) else payload
    before = copy.deepcopy(payload)
    with raw_client(recorder, model="M") as client:
        call(client, method, payload)
    expected = {"model": "M", "messages": [USER], **body, **({"stream": True} if method == "chat.stream" else {})}
    if expected["model"] is None:
        del expected["model"]
    assert recorder.requests[-1].json == expected
    assert payload == before


@pytest.mark.parametrize("method", METHODS)
def test_settings_fill_in(recorder, call, method):
    """The client's model, profanity_check and flags fill in what the payload leaves open."""
    with raw_client(recorder, model="M", profanity_check=True, flags=["a"]) as client:
        call(client, method, "hi")
        filled = recorder.requests[-1].json
        call(client, method, {"messages": [USER], "profanity_check": False, "flags": [], "model": "N"})
    assert (filled["model"], filled["disable_filter"], filled["flags"]) == ("M", False, ["a"])
    body = recorder.requests[-1].json
    assert (body["model"], body["disable_filter"], body["flags"]) == ("N", True, [])
    assert "profanity_check" not in filled


@pytest.mark.parametrize(
    ("payload", "place"),
    [
        ([USER, USER, {"role": "tool", "content": [{"function_result": {"name": "f"}}]}],
         r"messages\[2\].content\[0\].function_result: "),
        ([{"role": "tool", "content": {"function_result": 5}}], r"messages\[0\].content\[0\].function_result: "),
        ([USER, {"role": "user", "content": ["a", 5]}], r"messages\[1\].content\[1\]: "),
        ([{"role": "user", "content": 5}], r"messages\[0\].content: "),
        ([{"content": "x"}], r"messages\[0\]: .*'role'"),
        ([None], r"messages\[0\]: "),
        ({"messages": [USER], "tools": [{"functions": {"specifications": [{"name": "f"}]}}]},
         r"tools\[0\].functions.specifications\[0\]: .*parameters"),
        ({"messages": [USER], "storage": "x"}, "storage: "),
        ({"messages": [USER], "model_options": {"reasoning": []}}, "model_options.reasoning: "),
        ({"messages": 5}, "messages: "),
        ({}, "'messages'"),
    ],
    ids=str,
)  # fmt: skip
def test_what_cannot_be_sent(recorder, call, payload, place):
    """What is no request is refused before anything is sent, and the place is named."""
    with raw_client(recorder) as client:
        for method in METHODS:
            with pytest.raises(ValueError, match="^" + place if place[0] != "'" else place):
                call(client, method, payload)
    assert recorder.requests == []


@pytest.mark.parametrize(
    "payload", [5, None, b"hi", Chat(messages=["hi"]), {"messages": [USER], "x": object()}], ids=str
)
def test_wrong_types(recorder, call, payload):
    """What is no payload at all is a TypeError."""
    with raw_client(recorder) as client, pytest.raises(TypeError):
        call(client, "chat.create", payload)
    assert recorder.requests == []


# ---------- where to

ADDRESSES = [  # path of base_url, the variable's value, path of the request
    ("/api/v1", None, "/api/v2/chat/completions"),
    ("/v1", None, "/v2/chat/completions"),
    ("/v3", None, "/v2/chat/completions"),
    ("/gateway/api/v1", None, "/gateway/api/v2/chat/completions"),
    ("", None, "/chat/completions"),
    ("/x", None, "/x/chat/completions"),
    ("/v1/x", None, "/v1/x/chat/completions"),
    ("/api/v1beta", None, "/api/v1beta/chat/completions"),
    ("/g/api/v1", "/my/chat", "/g/api/v1/my/chat"),
    ("/g/api/v1", "/v1/chat", "/v1/chat"),
    ("/g/api/v1", "/api/v2/chat?a=b", "/api/v2/chat?a=b"),
    ("/g/api/v1", "/g/v2/chat", "/g/api/v1/g/v2/chat"),
    ("/g/api/v1", "{origin}/else/where", "/else/where"),
    ("/g/api/v1", "{origin}/v2/chat", "/v2/chat"),
]


@pytest.mark.parametrize(("base", "address", "path"), ADDRESSES)
@pytest.mark.parametrize("method", [*METHODS, "chat", "stream"])
def test_addresses(recorder, call, method, base, address, path):
    """Chat v2 is beside v1, or where its variable says; v1's variable knows the same forms."""
    origin = recorder.base_url.replace("/api/v1", "")
    if address is None and method in ("chat", "stream"):
        path = base + "/chat/completions"
    elif address is not None:
        variable = chat_completions_url_cvar if method in METHODS else chat_url_cvar
        variable.set(address.format(origin=origin))
    with raw_client(recorder, base_url=origin + base) as client:
        try:
            call(client, method, "hi")
        except (InvalidResponseError, StreamInterruptedError):
            assert method in ("chat", "stream")  # whose answers are others
    assert [request.target for request in recorder.requests] == [path]


@pytest.mark.parametrize(
    "address",
    ["", "chat", "/a b", "/a\r\nX: y", 7, "https://{host}/v2", "http://evil.invalid/v2", "http://{host}@evil.invalid/v2",
     "http://{host}\\@evil.invalid/", "//evil.invalid", "ftp://{host}/v2", "http://{host}", "http://localhost:99999/"],
)  # fmt: skip
@pytest.mark.parametrize("method", [*METHODS, "chat"])
def test_bad_addresses(recorder, call, method, address):
    """The token stays with base_url's server: another is refused, named together with it, before anything is sent."""
    host = recorder.base_url.split("/")[2]
    address = address.format(host=host) if isinstance(address, str) else address
    (chat_url_cvar if method == "chat" else chat_completions_url_cvar).set(address)
    with raw_client(recorder) as client:
        if address == "//evil.invalid":
            call(client, "chat.create", "hi")
            assert recorder.requests[-1].target in ("/api/v2/chat/completions", "/api/v1//evil.invalid")
            return
        with pytest.raises(ValueError) as caught:
            call(client, method, "hi")
    assert recorder.requests == []
    if address == "http://evil.invalid/v2":
        assert "evil.invalid" in str(caught.value)
        assert host in str(caught.value)


def test_default_ports_are_the_same_origin():
    """An address with the default port is of the server that base_url names without it."""
    with GigaChat(base_url="https://gigachat.invalid/api/v1") as client:
        for address in ("https://gigachat.invalid:443/x", "https://GIGACHAT.invalid/x"):
            chat_completions_url_cvar.set(address)
            path = gigachat_lite._chat_path(client, chat_completions_url_cvar)
            assert path == "https://gigachat.invalid/x"


# ---------- answers


@pytest.mark.parametrize("reply", [HELLO, CALL, PICTURE])
def test_answers_come_back(call, reply):
    """An answer holds what the server sent, and the ids of the exchange."""
    with RawServer(always(answer(reply.encode(), X_Request_Id="r"))) as server, raw_client(server) as client:
        completion = call(client, "chat.create", "hi")
    assert type(completion) is ChatCompletionResponse
    assert completion.to_dict() == json.loads(reply.replace("tool_state_id", "tools_state_id"))
    assert completion.x_headers["x-request-id"] == "r"
    assert pickle.loads(pickle.dumps(completion)) == completion


def completion_of(text):
    return ChatCompletionResponse.from_dict(json.loads(text))


def test_fields_of_answers():
    """What one looks for in an answer has a name."""
    hello, called, picture = map(completion_of, (HELLO, CALL, PICTURE))
    assert (hello.text, hello.message.text, hello.sources, hello.usage.input_tokens_details.prompt_tokens) == (
        "Hello",
        "Hello",
        [],
        19,
    )
    (wanted,) = called.message.function_calls
    assert (wanted.name, wanted.arguments, wanted.id, called.text) == (
        "get_order_status",
        {"order_id": "A-1024"},
        None,
        "",
    )
    assert called.message.tools_state_id == "019e8373-dc9a-7883-af60-ebb20b79e1e1"
    assert (picture.text, file_ids(picture), file_ids(picture.message)) == ("A simple icon", ["f4b17167"], ["f4b17167"])


def test_spellings_of_answers():
    """What is normalised on its way out reads so on its way in."""
    fields = {"created": 5, "messages": [{"role": "assistant", "content": "a", "functions_state_id": "s"}]}
    completion = ChatCompletionResponse.from_dict(fields)
    assert (completion.created_at, completion.text, completion.message.tools_state_id) == (5, "a", "s")
    assert completion.to_dict() == {
        "messages": [{"role": "assistant", "content": [{"text": "a"}], "tools_state_id": "s"}],
        "created_at": 5,
    }


@pytest.mark.parametrize(
    ("messages", "text"),
    [
        ([], ""),
        ([{"role": "reasoning", "content": "hm"}], ""),
        ([{"role": "reasoning", "content": "hm"}, {"role": "assistant", "content": ["a", "b"]}], "ab"),
        ([{"role": "assistant", "content": "first"}, {"role": "assistant", "content": "last"}], "last"),
        ([{"role": "assistant"}], ""),
    ],
)
def test_text_is_the_answer(messages, text):
    """The text is that of the assistant's last message, never what it thought."""
    completion = ChatCompletionResponse.from_dict({"messages": messages})
    assert completion.text == text
    assert (completion.message is None) == all(message["role"] != "assistant" for message in messages)


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (ChatCompletionRequest, ["messages"]),
        (ChatCompletionResponse, ["messages"]),
        (PrimaryChatCompletionChunk, []),
        (ChatMessage, ["role"]),
        (ChatMessageChunk, []),
        (ChatContentFile, ["id"]),
        (PrimaryChatFunctionCall, ["name", "arguments"]),
        (ChatFunctionResult, ["name", "result"]),
        (ChatFunctionSpecification, ["name", "parameters"]),
        (ChatLogprobToken, ["token", "token_id", "logprob"]),
        (ChatResponseFormat, []),
        (ChatStorage, []),
        (JsonSchemaResponseFormat, ["schema"]),
    ],
)
def test_what_must_be_there(kind, fields):
    """Only these fields have no default."""
    samples = {"str": "x", "int": 1, "float": 0.5, "List": []}
    types = {name: str(kind.__dataclass_fields__[name].type).partition("[")[0] for name in fields}
    whole = {name: samples.get(written, {}) for name, written in types.items()}
    kind.from_dict(whole)
    kind(**whole)
    for name in fields:
        with pytest.raises(ValueError, match=name):
            kind.from_dict({other: value for other, value in whole.items() if other != name})


def test_constructors_take_what_the_official_ones_take():
    """Names that are not known, the SDK's spellings of some, and a text as content."""
    assert ChatContentFile(id_="f", x=1).to_dict() == {"id": "f", "x": 1}
    assert ChatResponseFormat(schema_={"a": 1}).schema_ == {"a": 1}
    assert ChatMessage(role="user", content="a", tool_state_id="s") == ChatMessage(
        role="user", content=[{"text": "a"}], tools_state_id="s"
    )
    assert ChatTool(get_datetime={}).to_dict() == {"get_datetime": {}}
    assert ChatFunctionExample(request="r", params={}).params == {}
    request = ChatCompletionRequest(messages=[], reasoning={"effort": "low"})
    assert request.reasoning == request.model_options.reasoning == ChatReasoning(effort="low")
    assert ChatCompletionRequest(messages=[]).response_format is None


# ---------- streams


@pytest.mark.parametrize("cut", range(0, 60, 7))
def test_events(call, cut):
    """Events come with their names, however they are cut."""
    data = SEARCH.encode()
    with RawServer(stream_of(data[: 100 + cut], data[100 + cut :])) as server, raw_client(server) as client:
        chunks = call(client, "chat.stream", "hi")
    assert [type(one) for one in chunks] == [PrimaryChatCompletionChunk] * 5
    assert [one.event for one in chunks] == [
        "response.tool.in_progress",
        "response.tool.completed",
        *["response.message.delta"] * 2,
        "response.message.done",
    ]
    assert chunks[0].to_dict()["event"] == "response.tool.in_progress"
    assert chunks[1].messages[0].content[0].tool_execution.status == "success"
    assert [source.title for source in chunks[2].sources] == ["A", "B", "C"]
    assert "".join(one.text for one in chunks) == "Sunny [sources=[1, 2]]."
    assert (chunks[-1].messages[0].tools_state_id, chunks[-1].usage.total_tokens) == ("01a0d344", 3769)


def test_events_without_a_name(call):
    """Events without a name come too, and [DONE] is the end of an answer; what is none of ours does not come."""
    pieces = [event({"messages": [{"content": "a"}]}), named("ping", {}), b": comment\n\n", event("[DONE]")]
    with RawServer(stream_of(*pieces)) as server, raw_client(server) as client:
        (only,) = call(client, "chat.stream", "hi")
    assert only.to_dict() == {"messages": [{"content": [{"text": "a"}]}]}
    assert only.event is None
    assert only.text == "a"


def test_an_answer_that_failed_is_delivered(call):
    """A finish reason of "error" is an end, and what came before it is delivered."""
    end = {"model": "GigaChat", "created_at": "167890456789", "finish_reason": "error"}
    with RawServer(stream_of(named("response.message.done", end))) as server, raw_client(server) as client:
        (last,) = call(client, "chat.stream", "hi")
    assert last.finish_reason == "error"


DELTA = named("response.message.delta", {"messages": [{"role": "assistant", "content": [{"text": "a"}]}]})
FINISHED = named("response.message.done", {"finish_reason": "stop"})


@pytest.mark.parametrize("end", [closing, resetting])
@pytest.mark.parametrize("pieces", [[DELTA], [DELTA, FINISHED[:-20]], []])
def test_cut_streams(call, pieces, end):
    """A stream that ends before its answer raises, behind the chunks that came."""
    got = []
    with RawServer(end(STREAM_HEAD, *map(chunk, pieces))) as server, raw_client(server) as client:
        with pytest.raises(StreamInterruptedError):
            got.extend(client.chat.stream("hi"))
        with pytest.raises(StreamInterruptedError):
            call(client, "chat.stream", "hi")


@pytest.mark.parametrize("end", [closing, silent_after])
def test_an_end_without_an_end(call, end):
    """Behind a finish reason, neither a cut nor silence takes anything away."""
    with RawServer(end(STREAM_HEAD, chunk(DELTA + FINISHED))) as server, raw_client(server, timeout=0.2) as client:
        assert [one.text for one in call(client, "chat.stream", "hi")] == ["a", ""]


def test_silence(call):
    """A server that falls silent before the end is an APITimeoutError."""
    with RawServer(silent_after(STREAM_HEAD, chunk(DELTA))) as server, raw_client(server, timeout=0.2) as client:
        with pytest.raises(APITimeoutError):
            call(client, "chat.stream", "hi")


@pytest.mark.parametrize(
    ("piece", "kind", "said"),
    [
        (named("error", {"status_code": 429, "message": "Слишком часто"}), RateLimitError, "Слишком часто"),
        (named("response.error", {"message": "broken"}), ResponseError, "broken"),
        (event({"status": 500, "message": "Internal"}), ServerError, "Internal"),
        (event({"error": {"status_code": 503, "message": "away"}}), ServerError, "away"),
    ],
)
def test_errors_in_mid_stream(call, piece, kind, said):
    """An error that comes as an event is raised with the server's words, behind the chunks that came."""
    got = []
    with RawServer(stream_of(DELTA, piece)) as server, raw_client(server) as client:
        with pytest.raises(kind, match=said):
            got.extend(client.chat.stream("hi"))
        with pytest.raises(kind, match=said):
            call(client, "chat.stream", "hi")
    assert [one.text for one in got] == ["a"]


@pytest.mark.parametrize("data", ["{", "[]", "5", '{"messages": 5}', '{"messages": [{"content": [{"files": [{}]}]}]}'])
def test_malformed_events(call, data):
    """What is no chunk of an answer is an InvalidResponseError."""
    with RawServer(stream_of(named("response.message.delta", data), FINISHED)) as server, raw_client(server) as client:
        with pytest.raises(InvalidResponseError):
            call(client, "chat.stream", "hi")


# ---------- the namespace


@pytest.mark.parametrize("name", ["chat", "achat"])
def test_something_else_in_its_place(recorder, monkeypatch, name):
    """A test may put a function of its own on a client, and a subclass a method."""
    with raw_client(recorder) as client:
        with mock.patch.object(client, name, return_value="faked"):
            assert getattr(client, name)("hi") == "faked"
        assert isinstance(getattr(client, name), (gigachat_lite.ChatNamespace, gigachat_lite.AsyncChatNamespace))
        setattr(client, name, lambda payload: payload)
        assert getattr(client, name)("hi") == "hi"
        monkeypatch.setattr(GigaChat, name, lambda self, payload: "class", raising=False)
        with raw_client(recorder) as other:
            assert getattr(other, name)("hi") == "class"

    class Logged(GigaChatSyncClient, GigaChatAsyncClient):
        def chat(self, payload):
            return super().chat(payload)

    with RawServer(well_behaved) as server:
        with Logged(base_url=server.base_url, access_token="token") as client:
            assert client.chat("hi").choices
    assert recorder.requests == []


def test_namespaces_of_the_halves(recorder):
    """Each half of the client has its namespace; none is kept, so that nothing refers to itself."""
    with GigaChatSyncClient(base_url=recorder.base_url, access_token="token") as client:
        assert client.chat.create("hi").text == "Hello"
        assert vars(client).keys() == {"_settings", "_shared"}

    async def run():
        async with GigaChatAsyncClient(base_url=recorder.base_url, access_token="token") as client:
            assert (await client.achat.create("hi")).text == "Hello"
            async with client.achat.stream("hi") as stream:
                return [one.text async for one in stream]

    assert asyncio.run(run()) == ["1, 2, 3", ""]


@pytest.mark.parametrize("name", ["achat", "create"])
def test_names_of_twins(recorder, name):
    """A coroutine that nobody awaits tells its name."""
    with raw_client(recorder) as client, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        getattr(client.achat, "create" if name == "create" else "__call__")("hi")
    assert [f"AsyncChatNamespace.{name}" in str(one.message) for one in caught] == [True]


# ---------- the local server


def test_conversation(client, call):
    """A conversation with a function of one's own: the call, its result, the answer."""
    function = {"name": "get_order", "parameters": {"type": "object", "properties": {"n": {"type": "integer"}}}}
    request = ChatCompletionRequest(messages=["get_order 7"], tools=[{"functions": {"specifications": [function]}}])
    asked = call(client, "chat.create", request)
    (wanted,) = asked.message.function_calls
    result = {"function_result": {"name": wanted.name, "result": {"state": "packed"}, "id": wanted.id}}
    request.messages += [asked.message, ChatMessage(role="tool", content=result)]
    assert "packed" in call(client, "chat.create", request).text


def test_stored_conversation(client, call):
    """The answer's thread goes on."""
    first = call(client, "chat.create", {"messages": ["My name is Ann"], "storage": True})
    request = ChatCompletionRequest(messages=["What is my name?"], storage=ChatStorage(thread_id=first.thread_id))
    assert "Ann" in "".join(one.text for one in call(client, "chat.stream", request))


# ---------- what is new in v1


def test_models_of_v1():
    """Fields that came with 0.2.3 and later, and the SDK's classes for what is a dict."""
    chat = Chat(
        messages=["hi"],
        response_format=JsonSchemaResponseFormat(schema={"a": None}, strict=True),
        function_ranker=FunctionRanker(enabled=True, top_n=2),
        reasoning_max_tokens=5,
    )
    assert json.loads(gigachat_lite._encode(chat)) == {
        "messages": [{"role": "user", "content": "hi"}],
        "response_format": {"schema": {"a": None}, "type": "json_schema", "strict": True},
        "function_ranker": {"enabled": True, "top_n": 2},
        "reasoning_max_tokens": 5,
    }
    plain = Chat(messages=[], response_format={"type": "regex", "regex": None})
    assert plain.response_format == {"type": "regex", "regex": None}
    assert Thread.from_dict({"thread_id": "t"}).id == Thread.from_dict({"id": "t"}).id == "t"
    message = Messages.from_dict({"role": "assistant", "function_call": {"name": "f", "id": "1"}})
    assert (message.function_call.id, message.inline_data, message.logprobs) == ("1", None, None)


@pytest.mark.parametrize("extra", [{"assistant_id": "a"}, {"storage": {"is_stateful": True, "thread_id": "t"}}])
def test_no_model_beside_an_assistant(raw_server, call, extra):
    """An assistant and a thread have a model of their own."""
    with raw_client(raw_server) as client:
        call(client, "chat", {"messages": ["hi"], **extra})
    assert "model" not in raw_server.requests[-1].json


@pytest.mark.parametrize("method", ["chat", "chat.create", "get_models"])
def test_session_id(server, settings, call, method):
    """The session of the settings is that of all requests but OAuth's, unless the context has another."""
    with GigaChat(**settings, session_id="mine") as client:
        call(client, method, *([] if method == "get_models" else ["hi"]))
        session_id_cvar.set("other")
        call(client, method, *([] if method == "get_models" else ["hi"]))
    sent = [(request.path.endswith("oauth"), request.headers.get("X-Session-ID")) for request in server.requests]
    assert sent == [(True, None), (False, "mine"), (False, "other")]


@pytest.mark.parametrize(
    ("status", "message", "advice"),
    [
        (423, "Locked", "switched off"),
        (403, "Model is temporarily unavailable due to technical reasons", "switched off"),
        (422, "invalid function result for function json string", "json.dumps"),
        (400, "JSON parse error", "json.dumps"),
        (404, "Unknown tool x", ""),
    ],
)
@pytest.mark.parametrize("method", ["chat", "chat.create"])
def test_advice(call, method, status, message, advice):
    """What can be done is said where we know it, and nothing where base_url is right."""
    reply = answer(json.dumps({"status": status, "message": message}).encode(), f"{status} No")
    with RawServer(always(reply)) as server, raw_client(server) as client:
        with pytest.raises(ResponseError) as caught:
            call(client, method, "hi")
    assert advice in caught.value.hint
    assert bool(caught.value.hint) == bool(advice)
    version = "/api/v2" if method == "chat.create" else ""
    assert str(caught.value).startswith(f"{status} POST {version}/chat/completions: {message}")

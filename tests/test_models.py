"""Models: JSON objects in, JSON objects out, with nothing lost on the way."""

import copy
import dataclasses
import inspect
import json
import pickle
import pydoc
import threading
import time

import pytest
from conftest import raw_client
from faults import RawServer, always, answer

import gigachat_lite
from gigachat_lite import (
    AccessToken,
    Chat,
    ChatCompletion,
    ChatCompletionChunk,
    ChatFunctionCall,
    Choices,
    ChoicesChunk,
    Embeddings,
    FewShotExample,
    Function,
    FunctionCall,
    FunctionParameters,
    FunctionParametersProperty,
    InvalidResponseError,
    JSONObject,
    Messages,
    MessagesChunk,
    MessagesRole,
    Model,
    Models,
    Storage,
    ThreadStatus,
    UploadedFile,
    Usage,
)

MODELS = sorted(
    (
        kind
        for kind in vars(gigachat_lite).values()
        if isinstance(kind, type) and issubclass(kind, JSONObject) and kind is not JSONObject
    ),
    key=lambda kind: kind.__name__,
)
# Answers as the service gives them, and such as it may give one day.
COMPLETION = {
    "choices": [
        {
            "message": {
                "content": "",
                "role": "assistant",
                "function_call": {"name": "weather", "arguments": {"city": "Москва", "days": [1, None]}},
                "functions_state_id": "77d3fb14-457a-46ba-937e-8d856156d003",
            },
            "index": 0,
            "finish_reason": "function_call",
        }
    ],
    "created": 1_706_096_547,
    "model": "GigaChat:1.0.26.20",
    "usage": {"prompt_tokens": 20, "completion_tokens": 53, "total_tokens": 73, "precached_prompt_tokens": 37},
    "object": "chat.completion",
}
FUTURE_COMPLETION = {
    **COMPLETION,
    "choices": [
        {
            "message": {"content": "Да", "role": "oracle", "mood": {"joy": [0.5, None]}},
            "index": 0,
            "finish_reason": "bored",
            "weight": 1,
        }
    ],
    "new": {"nested": [{"choices": 1}]},
    "usage": {"prompt_tokens": 1, "tokens_of_new_kind": {"a": None}},
    "nothing": None,
}
CHUNK = {
    "choices": [{"delta": {"content": "При", "role": "assistant"}, "index": 0}],
    "created": 1_706_096_547,
    "model": "GigaChat:1.0.26.20",
    "object": "chat.completion",
}
REPLIES = [
    (ChatCompletion, COMPLETION),
    (ChatCompletion, FUTURE_COMPLETION),
    (ChatCompletion, {"choices": []}),
    (ChatCompletion, {"choices": [{"message": {"role": "assistant", "content": "x", "function_call": None}}]}),
    (ChatCompletionChunk, CHUNK),
    (ChatCompletionChunk, {"choices": [{"delta": {}}], "usage": {}}),
    (Models, {"object": "list", "data": [{"id": "GigaChat", "object": "model", "owned_by": "x", "type": "chat"}]}),
    (Embeddings, {"data": [{"embedding": [0.5], "index": 0, "usage": {"prompt_tokens": 1}}], "object": "list"}),
    (UploadedFile, {"id": "1", "bytes": 3, "object": "file", "modalities": ["text"], "access_policy": "private"}),
    (Storage, {"is_stateful": False, "metadata": {"a": None}}),
]


@pytest.fixture(params=REPLIES, ids=lambda case: case[0].__name__)
def reply(request):
    kind, fields = request.param
    return kind, copy.deepcopy(fields)


# ---------- decode, encode


def test_round_trip(reply):
    """to_dict() gives back what from_dict() took: unknown keys, nulls and what was missing too."""
    kind, fields = reply
    model = kind.from_dict(fields)
    assert model.to_dict() == fields
    assert kind.from_dict(model.to_dict()) == model
    assert list(model.to_dict()) == list(fields)


def test_round_trip_is_plain(reply):
    """to_dict() holds no models: json writes it."""
    kind, fields = reply
    assert json.loads(json.dumps(kind.from_dict(fields).to_dict())) == fields


def test_from_dict_leaves_its_argument_alone(reply):
    """The caller's dict does not become the model's, nor do the dicts inside."""
    kind, fields = reply
    before = copy.deepcopy(fields)
    model = kind.from_dict(fields)
    assert fields == before
    model.added = 1
    for name in list(vars(model)):
        value = getattr(model, name)
        if isinstance(value, list):
            value.append("added")
        if isinstance(value, dict):
            value["added"] = 1
    assert fields == before


def test_nested_models():
    """What is nested in an answer is models, with attributes all the way down."""
    completion = ChatCompletion.from_dict(COMPLETION)
    choice = completion.choices[0]
    assert type(choice) is Choices
    assert type(choice.message) is Messages
    assert type(choice.message.function_call) is FunctionCall
    assert type(completion.usage) is Usage
    assert choice.message.function_call.arguments == {"city": "Москва", "days": [1, None]}
    chunk = ChatCompletionChunk.from_dict(CHUNK)
    assert type(chunk.choices[0]) is ChoicesChunk
    assert type(chunk.choices[0].delta) is MessagesChunk
    assert type(Models.from_dict({"data": [{"id": "1"}]}).data[0]) is Model


def test_unknown_fields():
    """Keys that a class does not know are attributes; unknown roles and finish reasons are plain strings."""
    completion = ChatCompletion.from_dict(FUTURE_COMPLETION)
    choice = completion.choices[0]
    assert completion.new == {"nested": [{"choices": 1}]}
    assert completion.nothing is None
    assert choice.finish_reason == "bored"
    assert choice.weight == 1
    assert choice.message.role == "oracle"
    assert choice.message.mood == {"joy": [0.5, None]}
    assert completion.usage.tokens_of_new_kind == {"a": None}


@pytest.mark.parametrize(
    ("model", "defaults"),
    [
        (Usage.from_dict({}), {"prompt_tokens": 0, "precached_prompt_tokens": None}),
        (ChatCompletion.from_dict({"choices": []}), {"usage": None, "created": 0, "model": "", "object": ""}),
        (Messages.from_dict({"role": "user"}), {"content": "", "function_call": None, "attachments": None, "id": None}),
        (Messages.from_dict({"content": "x"}), {"role": None}),
        (ChoicesChunk.from_dict({}), {"delta": MessagesChunk(), "index": 0, "finish_reason": None}),
        (MessagesChunk.from_dict({}), {"role": None, "content": None}),
        (AccessToken.from_dict({"access_token": "1"}), {"expires_at": 0}),
        (FunctionParameters.from_dict({}), {"type": "object", "properties": None}),
        (ChatCompletion.from_dict({"choices": []}), {"x_headers": None}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_missing_fields(model, defaults):
    """A known field that is absent reads as its default, and does not appear in to_dict()."""
    before = model.to_dict()
    assert {name: getattr(model, name) for name in defaults} == defaults
    assert model.to_dict() == before
    assert not set(defaults) & set(before)


def test_misspelt_attribute():
    """An attribute that is neither known nor there is an AttributeError that names class and attribute."""
    with pytest.raises(AttributeError, match=r"'Messages'.*'contents'"):
        _ = Messages.from_dict({"role": "user"}).contents
    assert not hasattr(Messages.from_dict({"role": "user"}), "contents")


def test_x_headers_stay_out():
    """x_headers is no part of the JSON object."""
    model = Model.from_dict({"id": "1"})
    model.x_headers = {"x-request-id": "7"}
    assert model.to_dict() == {"id": "1"}


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (ChatCompletion, {}),
        (ChatCompletion, {"choices": None}),
        (ChatCompletion, {"choices": 1}),
        (ChatCompletion, {"choices": {}}),
        (ChatCompletion, {"choices": [None]}),
        (ChatCompletion, {"choices": ["text"]}),
        (ChatCompletion, {"choices": [{}]}),
        (ChatCompletion, {"choices": [{"message": "text"}]}),
        (ChatCompletionChunk, {"created": 1}),
        (Models, {"object": "list"}),
        (Models, {"data": [{}]}),
        (Model, {"object": "model"}),
        (Embeddings, {"data": [{"index": 0}]}),
    ],
)
def test_missing_essentials(kind, fields):
    """What an answer is useless without must be there: ValueError."""
    with pytest.raises(ValueError, match=r"lacks|must be|expected"):
        kind.from_dict(fields)


@pytest.mark.parametrize("fields", [None, 1, "text", [("id", "1")], [], Model(id="1")], ids=lambda v: type(v).__name__)
def test_from_dict_of_something_else(fields):
    """from_dict() takes a mapping and says so."""
    with pytest.raises(TypeError, match="Model needs a dict, not"):
        Model.from_dict(fields)


def test_from_dict_of_itself():
    """A dict that contains itself is refused with a ValueError, not a RecursionError."""
    fields = {"id": "1"}
    fields["self"] = fields
    with pytest.raises(ValueError, match="nested"):
        Model.from_dict(fields)


# ---------- objects


def test_equality(reply):
    """Models are equal when their class and their JSON are."""
    kind, fields = reply
    model = kind.from_dict(fields)
    assert model == kind.from_dict(fields)
    assert not model != kind.from_dict(fields)  # noqa: SIM202
    assert model != kind.from_dict({**fields, "more": 1})
    assert model != fields
    assert model != JSONObject.from_dict(fields)


def test_no_hash():
    """Models can change, so they are not hashable."""
    with pytest.raises(TypeError, match="unhashable"):
        hash(Messages(role="user"))


def test_repr():
    """repr() shows class and fields, unknown ones too, in readable Cyrillic."""
    message = Messages.from_dict({"role": "user", "content": "Привет", "new": 1})
    assert repr(message) == "Messages(role='user', content='Привет', new=1)"
    assert "Choices(message=Messages(" in repr(ChatCompletion.from_dict(COMPLETION))


@pytest.mark.parametrize("copied", [0, 2, pickle.HIGHEST_PROTOCOL, copy.copy, copy.deepcopy])
def test_pickle_and_copy(reply, copied):
    """A model survives pickling and copying, with x_headers."""
    kind, fields = reply
    model = kind.from_dict(fields)
    model.x_headers = {"x-request-id": "7"}
    back = copied(model) if callable(copied) else pickle.loads(pickle.dumps(model, copied))
    assert type(back) is kind
    assert back == model
    assert back.x_headers == {"x-request-id": "7"}
    back.added = 1
    assert not hasattr(model, "added")


def test_deep_copy():
    """A deep copy shares nothing with its original."""
    model = ChatCompletion.from_dict(COMPLETION)
    copy.deepcopy(model).choices[0].message.content = "other"
    assert model.choices[0].message.content == ""


@pytest.mark.parametrize(
    ("model", "name", "value"),
    [
        (Model.from_dict({"id": "1", "object": "model", "type": "chat"}), "id", "1"),
        (Model.from_dict({"id": "1", "object": "model", "type": "chat"}), "object", "model"),
        (Model.from_dict({"id": "1", "object": "model", "type": "chat"}), "type", "chat"),
        (Messages(role="user", id=7), "id", 7),
        (Messages(role="user"), "id", None),
        (UploadedFile.from_dict({"id": "1", "bytes": 3, "object": "file"}), "bytes", 3),
        (UploadedFile.from_dict({"id": "1", "bytes": 3, "object": "file"}), "id", "1"),
        (ChatCompletion.from_dict(COMPLETION), "object", "chat.completion"),
        (ChatCompletionChunk.from_dict(CHUNK), "object", "chat.completion"),
        (FunctionParameters(), "type", "object"),
        (FunctionParametersProperty(type="string"), "type", "string"),
    ],
)
def test_aliases(model, name, value):
    """The official SDK's spellings read the same; they cannot be set, nor sent."""
    assert getattr(model, name) == getattr(model, name + "_") == value
    with pytest.raises(AttributeError, match=f"{name}|can't set"):  # Python 3.8 does not name it
        setattr(model, name + "_", value)
    assert name + "_" not in model.to_dict()


def test_aliases_follow():
    """An alias reads what the field says now."""
    model = Model(id="1")
    model.id = "2"
    assert model.id_ == "2"


@pytest.mark.parametrize("kind", MODELS, ids=lambda kind: kind.__name__)
def test_documented(kind):
    """Each model says what it is, and is exported unless private."""
    assert kind.__doc__
    assert not kind.__doc__.startswith(kind.__name__ + "(")
    assert kind.__name__.startswith("_") or kind.__name__ in gigachat_lite.__all__


def test_plans_are_made_once_by_many_threads():
    """Threads that meet a class first at the same time all decode it rightly."""
    kinds = [type("Sub", (ChatCompletion,), {}) for _ in range(20)]
    start = threading.Barrier(4)
    found = []

    def decode():
        start.wait(20)
        found.extend(type(kind.from_dict(COMPLETION).choices[0].message) for kind in kinds)

    threads = [threading.Thread(target=decode) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert found == [Messages] * 80


# ---------- constructors


def test_constructors_take_dicts():
    """Nested models may be given as dicts and become models."""
    chat = Chat(
        messages=[{"role": "user", "content": "Привет", "function_call": {"name": "f", "arguments": {}}}, "Как дела?"],
        functions=[{"name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "string"}}}}],
        function_call={"name": "f", "partial_arguments": {"a": 1}},
        storage={"is_stateful": True},
    )
    assert [type(message) for message in chat.messages] == [Messages, Messages]
    assert type(chat.messages[0].function_call) is FunctionCall
    assert chat.messages[1] == Messages(role="user", content="Как дела?")
    assert type(chat.functions[0]) is Function
    assert type(chat.functions[0].parameters) is FunctionParameters
    assert type(chat.functions[0].parameters.properties["a"]) is FunctionParametersProperty
    assert type(chat.function_call) is ChatFunctionCall
    assert type(chat.storage) is Storage
    assert chat == Chat(
        messages=[
            Messages(role=MessagesRole.USER, content="Привет", function_call=FunctionCall(name="f", arguments={})),
            Messages(role=MessagesRole.USER, content="Как дела?"),
        ],
        functions=[
            Function(
                name="f", parameters=FunctionParameters(properties={"a": FunctionParametersProperty(type="string")})
            )
        ],
        function_call=ChatFunctionCall(name="f", partial_arguments={"a": 1}),
        storage=Storage(is_stateful=True),
    )


def test_constructors_leave_arguments_alone():
    """Dicts and lists that a constructor gets are never changed, nor shared."""
    message = {"role": "user", "content": "Привет", "function_call": {"name": "f", "arguments": {"a": [1]}}}
    function = {"title": "f", "properties": {"a": {"type": "string", "enum": ["x"]}}, "required": ["a"]}
    before = copy.deepcopy([message, function])
    chat = Chat(messages=[message], functions=[function])
    chat.messages[0].function_call.arguments["a"].append(2)
    chat.functions[0].parameters.properties["a"].enum.append("y")
    chat.functions[0].parameters.required.append("b")
    made = Function(**function)
    made.parameters.required.append("b")
    assert [message, function] == before


def test_positional_arguments():
    """The constructors take their fields in order too."""
    assert Messages("user", "Привет") == Messages(role="user", content="Привет")
    assert Usage(1, 2, 3) == Usage(prompt_tokens=1, completion_tokens=2, total_tokens=3)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Messages(),
        lambda: Messages(roles="user"),
        lambda: Messages("user", role="user"),
        lambda: Usage(1, 2, 3, 4, 5),
        lambda: Chat(),
        lambda: Chat(messages="Привет"),
        lambda: Chat(messages=None),
        lambda: Chat(messages=[1]),
        lambda: Chat(messages=[None]),
        lambda: Chat(messages=[["Привет"]]),
        lambda: Chat.from_dict({}),
        lambda: Chat.from_dict({"messages": {"role": "user"}}),
    ],
)
def test_wrong_arguments(make):
    """A constructor refuses what it does not know or lacks, with a TypeError."""
    with pytest.raises(TypeError):
        make()


def test_roles():
    """Roles compare equal to their wire names, and so do the states of threads."""
    assert [role.value for role in MessagesRole] == [
        "assistant",
        "system",
        "user",
        "function",
        "search_result",
        "function_in_progress",
    ]
    assert Messages(role=MessagesRole.USER).role == "user"
    assert Messages(role="user").role == MessagesRole.USER
    assert json.dumps(MessagesRole.USER) == '"user"'
    assert [status.value for status in ThreadStatus] == ["in_progress", "ready", "failed", "deleted"]


def test_access_token_repr():
    """A token does not show in its repr(), nor in one that holds it."""
    token = AccessToken(access_token="S3CR3T", expires_at=5)
    assert "S3CR3T" not in repr([token])
    assert token.access_token == "S3CR3T"
    assert pickle.loads(pickle.dumps(token)) == token


def test_few_shot_examples():
    """Examples of a function may be dicts, with params of any JSON."""
    example = {"request": "Погода в Москве", "params": {"city": "Москва", "days": None}}
    function = Function(name="weather", few_shot_examples=[example])
    assert function.few_shot_examples == [FewShotExample(**example)]
    assert function.to_dict() == {"name": "weather", "few_shot_examples": [example]}


# ---------- functions in the forms of JSON schema

# A schema with everything that JSON schema has, nulls too.
SCHEMA = {
    "type": "object",
    "description": "Запрос",
    "properties": {
        "city": {"type": "string", "minLength": 1, "pattern": "^[А-Я]", "default": None, "examples": ["Москва", None]},
        "when": {"anyOf": [{"type": "string", "format": "date"}, {"type": "null"}], "default": None},
        "tags": {"type": "array", "items": {"type": "string", "enum": ["a", None]}, "maxItems": 3},
        "place": {
            "type": "object",
            "properties": {"lat": {"type": ["number", "null"]}, "title": {"$ref": "#/$defs/name"}},
            "required": [],
            "additionalProperties": False,
        },
        "title": {"type": "string"},
        "anything": {},
        "never": False,
        "const": {"const": None},
    },
    "required": ["city"],
    "additionalProperties": {"type": "null"},
    "$defs": {"name": {"type": "string"}},
    "x-order": None,
}
FUNCTION = {"name": "weather", "description": "Погода", "parameters": SCHEMA}


def sent(client, server, function, call):
    """Give the function as the server received it."""
    call(client, "chat", {"messages": ["Привет"], "functions": [function], "function_call": "none"})
    return json.loads(server.requests[-1].body)["functions"][0]


FORMS = [
    FUNCTION,
    Function(**FUNCTION),
    Function.from_dict(FUNCTION),
    Function("weather", "Погода", SCHEMA),
    Function(name="weather", description="Погода", parameters=FunctionParameters.from_dict(SCHEMA)),
    Function(title="weather", description="Погода", parameters=SCHEMA),
    {"title": "weather", "description": "Погода", "parameters": SCHEMA},
]


@pytest.mark.parametrize("function", FORMS, ids=range(len(FORMS)))
def test_function_is_sent_intact(client, server, call, function):
    """Each form of the same function goes out the same: no keyword is dropped, no null, nothing is added."""
    before = copy.deepcopy(function)
    assert sent(client, server, function, call) == FUNCTION
    assert function == before


FLAT = {"title": "weather", "description": "Погода", **{k: v for k, v in SCHEMA.items() if k != "description"}}
FLAT_SENT = {
    "name": "weather",
    "description": "Погода",
    "parameters": {keyword: value for keyword, value in SCHEMA.items() if keyword != "description"},
}


@pytest.mark.parametrize("make", [dict, lambda schema: Function(**schema), Function.from_dict])
@pytest.mark.parametrize("name", ["title", "name"])
def test_properties_at_the_top_level(client, server, call, make, name):
    """A bare schema, as pydantic's model_json_schema() gives it, becomes a function: its keywords, parameters."""
    schema = copy.deepcopy({name if key == "title" else key: value for key, value in FLAT.items()})
    before = copy.deepcopy(schema)
    assert sent(client, server, make(schema), call) == FLAT_SENT
    assert schema == before


def test_schema_without_properties(client, server, call):
    """The bare schema of a function without arguments becomes one, too: its type is the parameters'."""
    found = {"name": "now", "parameters": {"type": "object"}}
    assert sent(client, server, {"title": "now", "type": "object"}, call) == found
    assert sent(client, server, Function(title="now", type="object"), call) == found


def test_name_beats_title(client, server, call):
    """With both a name and a title the name is the name; the title is not lost."""
    found = sent(client, server, {"name": "weather", "title": "Weather", "parameters": {"properties": {}}}, call)
    assert found == {"name": "weather", "title": "Weather", "parameters": {"properties": {}}}


def test_return_parameters(client, server, call):
    """return_parameters and few_shot_examples go out as they are."""
    function = {
        **FUNCTION,
        "return_parameters": {"type": "object", "properties": {"t": {"type": "number", "default": None}}},
        "few_shot_examples": [{"request": "Погода", "params": {"city": None}}],
    }
    assert sent(client, server, function, call) == function
    assert sent(client, server, Function(**function), call) == function


def test_function_without_parameters(client, server, call):
    """A function needs no parameters, and an empty schema stays one."""
    assert sent(client, server, Function(name="now"), call) == {"name": "now"}
    assert sent(client, server, {"name": "now", "parameters": {}}, call) == {"name": "now", "parameters": {}}


def test_parameters_given_as_models(client, server, call):
    """What models of a schema leave open is not sent as null; their type is."""
    function = Function(
        name="weather",
        parameters=FunctionParameters(
            properties={"city": FunctionParametersProperty(type="string", description="Город", enum=["Москва"])},
            required=["city"],
        ),
    )
    assert sent(client, server, function, call) == {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "Город", "enum": ["Москва"]}},
            "required": ["city"],
        },
    }


def test_white_space_around_json(client, server, call):
    """JSON may begin and end with white space (RFC 8259, section 2); anything else behind it is no JSON."""
    reply = b' \r\n\t{"id":"GigaChat"}\n '
    server.answer_next("/models", 200, reply)
    assert call(client, "get_model", "GigaChat").id == "GigaChat"
    server.answer_next("/models", 200, reply + b"x")
    with pytest.raises(InvalidResponseError):
        call(client, "get_model", "GigaChat")


# ---------- copies


@pytest.mark.parametrize(
    "model",
    [
        Chat(messages=[Messages(role="user", content="да")]),
        Function(name="f", parameters={"type": "object", "properties": {"a": {"type": "string", "default": None}}}),
        ChatCompletion.from_dict({"choices": [{"message": {"content": "да"}, "new": [1]}], "newer": {"a": None}}),
    ],
    ids=lambda model: type(model).__name__,
)
def test_models_travel(model):
    """Models are copied and pickled with all that they hold."""
    for other in (copy.copy(model), copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert other == model and repr(other) == repr(model)


def test_answers_travel(call):
    """So do answers with the headers that came with them."""
    with RawServer(always(answer(X_Request_Id="id"))) as server, raw_client(server) as client:
        completion = call(client, "chat", "x")
    assert pickle.loads(pickle.dumps(completion)).x_headers == completion.x_headers


# ---------- text from the server


def test_bytes_that_are_not_utf8(call):
    """A byte that is no UTF-8 becomes U+FFFD, in a whole answer and in a piece of one; the rest is not lost."""
    whole = b'{"choices":[{"message":{"role":"assistant","content":"\xd0 text"}}]}'
    events = (
        b'data: {"choices":[{"delta":{"content":"\xd0"},"index":0}]}\n\n'
        b'data: {"choices":[{"delta":{"content":" text"},"index":0,"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
    )

    def reply(request):
        return answer(events, Content_Type="text/event-stream") if b"stream" in request.body else answer(whole)

    with RawServer(always(reply)) as server, raw_client(server) as client:
        assert call(client, "chat", "x").choices[0].message.content == "\ufffd text"
        assert "".join(piece.choices[0].delta.content for piece in call(client, "stream", "x")) == "\ufffd text"


def test_byte_order_mark(client, server, call):
    """A byte order mark before JSON is skipped."""
    server.answer_next("/models", 200, b'\xef\xbb\xbf {"id":"GigaChat"}')
    assert call(client, "get_model", "GigaChat").id == "GigaChat"


MISFITS = [
    ({"choices": {}}, r"\$\.choices must be a list, not dict"),
    ({"choices": [3]}, r"\$\.choices\[0\] must be an object, not int"),
    ({"choices": [{"message": "x"}]}, r"\$\.choices\[0\]\.message must be an object, not str"),
    ({"choices": [{"message": {"content": 5}}]}, r"\$\.choices\[0\]\.message\.content must be text, not int"),
    ({"choices": [{"message": {"role": []}}]}, r"message\.role must be text, not list"),
    ({"choices": [{"message": {"function_call": 5}}]}, r"message\.function_call must be an object, not int"),
    ({"choices": [{"message": {"function_call": {"name": 5}}}]}, r"function_call\.name must be text, not int"),
    ({"choices": [{"message": {"attachments": "x"}}]}, r"message\.attachments must be a list, not str"),
    ({"choices": [{"message": {}, "finish_reason": []}]}, r"finish_reason must be text, not list"),
    ({"choices": [{"message": {}, "index": []}]}, r"index must be a number, not list"),
    ({"choices": [{}]}, r"\$\.choices\[0\] lacks 'message'"),
    ({"choices": [], "usage": 5}, r"\$\.usage must be an object, not int"),
    ({"choices": [], "usage": {"total_tokens": "x"}}, r"\$\.usage\.total_tokens must be a number, not str"),
    ({"choices": [], "model": {}}, r"\$\.model must be text, not dict"),
]
CHUNK_MISFITS = [
    ({"choices": [{"delta": 3}]}, r"delta must be an object, not int"),
    ({"choices": [{"delta": {"content": 5}}]}, r"\$\.choices\[0\]\.delta\.content must be text, not int"),
    ({"choices": [{"delta": {"reasoning_content": {}}}]}, r"delta\.reasoning_content must be text, not dict"),
    ({"choices": [{"delta": {}, "finish_reason": {}}]}, r"finish_reason must be text, not dict"),
    ({"choices": [{"delta": {}, "index": "0"}]}, r"index must be a number, not str"),
    ({"choices": "x"}, r"\$\.choices must be a list, not str"),
    ({"choices": [], "usage": []}, r"\$\.usage must be an object, not list"),
]


@pytest.mark.parametrize(
    ("method", "body", "said"),
    [("chat", *misfit) for misfit in MISFITS] + [("stream", *misfit) for misfit in CHUNK_MISFITS],
)
def test_wrong_types_inside_an_answer(call, method, body, said):
    """A field of another type than its own is an InvalidResponseError that says where, and no surprise later."""
    event = b"data: " + json.dumps(body).encode() + b"\n\n"
    reply = answer(body) if method == "chat" else answer(event, Content_Type="text/event-stream")
    with RawServer(always(reply)) as server, raw_client(server) as client:
        with pytest.raises(InvalidResponseError, match=said):
            call(client, method, "x")


def test_null_fits_everywhere():
    """A null counts as absent, whatever the type of the field."""
    message = {"role": None, "content": None, "function_call": None, "attachments": None}
    fields = {"choices": [{"message": message, "index": None, "finish_reason": None}], "usage": None, "model": None}
    assert ChatCompletion.from_dict(fields).to_dict() == fields


def test_requests_stay_lenient():
    """What a server may take is not refused: numbers of other types, choices that are text, any JSON schema."""
    chat = Chat(
        messages=["x"], temperature="0.5", function_call="auto", functions=[{"name": "f", "parameters": SCHEMA}]
    )
    assert (chat.temperature, chat.function_call) == ("0.5", "auto")
    assert Function(name="f", parameters={"type": ["object", "null"]}).parameters.type == ["object", "null"]
    assert Messages.from_dict({"role": "usr", "content": None}).role == "usr"


# ---------- keys that are names of methods

HIDING = dict.fromkeys(
    (
        "to_dict",
        "model_dump",
        "model_dump_json",
        "from_dict",
        "_of",
        "_adopt",
        "_rules",
        "_defaults",
        "__getstate__",
        "__setstate__",
        "__reduce__",
        "__reduce_ex__",
        "__deepcopy__",
        "__copy__",
        "__getnewargs_ex__",
        "__getattr__",
        "__repr__",
        "__eq__",
        "__class__",
        "__dict__",
        "__signature__",
        "id_",
    ),
    "from the server",
)


def test_keys_that_are_names_of_methods(call):
    """Data never hides behaviour: an answer with such keys is copied, pickled, shown and turned back like any other."""
    message = {"role": "assistant", "content": "x", **HIDING}
    fields = {"choices": [{"message": message, "index": 0, **HIDING}], **HIDING}
    with RawServer(always(answer(fields))) as server, raw_client(server) as client:
        completion = call(client, "chat", "x")
    assert completion.to_dict() == fields
    assert completion.model_dump(by_alias=True)["to_dict"] == "from the server"
    assert json.loads(completion.model_dump_json())["choices"][0]["message"]["model_dump"] == "from the server"
    for other in (
        copy.copy(completion),
        copy.deepcopy(completion),
        *(pickle.loads(pickle.dumps(completion, protocol)) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)),
    ):
        assert type(other) is ChatCompletion
        assert other == completion and repr(other) == repr(completion)
        assert other.to_dict() == fields
        assert other.x_headers == completion.x_headers


def test_key_that_is_the_name_of_our_own_method(client, server, call):
    """Nor does it hide a method of one class alone."""
    server.answer_next("/batches", 200, {"batches": [{"id": "b", "only": 1}], "only": 5})
    assert call(client, "get_batch", "b").id == "b"


# ---------- in pydantic's way


def test_model_dump():
    """model_dump() gives every declared field, None where it is absent, then unknown keys; "id_" for "id"."""
    message = Messages.from_dict({"role": MessagesRole.USER, "content": "Привет", "new": {"a": None}})
    names = ["role", "content", "function_call", "name", "attachments", "data_for_context", "functions_state_id"]
    dump = message.model_dump()
    assert list(dump) == [*names, "reasoning_content", "id_", "inline_data", "logprobs", "new"]
    assert dump == {**dict.fromkeys(dump), "role": "user", "content": "Привет", "new": {"a": None}}
    assert list(message.model_dump(by_alias=True)) == [
        *names,
        "reasoning_content",
        "id",
        "inline_data",
        "logprobs",
        "new",
    ]
    assert message.model_dump(exclude_none=True) == {"role": "user", "content": "Привет", "new": {"a": None}}
    assert type(dump["role"]) is MessagesRole
    assert type(message.model_dump(mode="json")["role"]) is str


def test_model_dump_of_nested_models():
    """Models inside become dicts in the same manner; only fields of a class have aliases."""
    dump = ChatCompletion.from_dict({**COMPLETION, "type": 1}).model_dump()
    assert (dump["object_"], dump["type"], dump["thread_id"]) == ("chat.completion", 1, None)
    assert dump["choices"][0]["message"]["id_"] is None
    assert dump["choices"][0]["message"]["function_call"]["arguments"] == {"city": "Москва", "days": [1, None]}
    assert ChatCompletion.from_dict(COMPLETION).model_dump(by_alias=True, exclude_none=True) == COMPLETION
    parameters = Function(name="f", parameters={"properties": {"a": {"type": "string"}}}).model_dump()["parameters"]
    assert parameters["properties"]["a"]["type_"] == "string"


def test_model_dump_json():
    """model_dump_json() writes the same, compact unless indented, Cyrillic as it is."""
    usage = Usage(1, 2, 3)
    assert usage.model_dump_json(exclude_none=True) == '{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}'
    assert usage.model_dump_json(indent=2).splitlines()[1] == '  "prompt_tokens": 1,'
    message = Messages(role=MessagesRole.USER, content="Привет")
    assert json.loads(message.model_dump_json()) == message.model_dump()
    assert "Привет" in message.model_dump_json() and '"id":null' in message.model_dump_json(by_alias=True)


def test_model_validate():
    """model_validate() makes a model of a dict and gives a model back; a ValueError says what does not fit."""
    completion = ChatCompletion.model_validate(COMPLETION)
    assert completion == ChatCompletion.from_dict(COMPLETION)
    assert ChatCompletion.model_validate(completion) is completion
    for wrong in (None, 5, "x", [], Usage(), {}, {"choices": 5}):
        with pytest.raises(ValueError):
            ChatCompletion.model_validate(wrong)


# ---------- for people


def test_repr_is_short():
    """repr() shows the beginning of long lists and texts."""
    data = [{"embedding": [0.123456789] * 1024, "index": index} for index in range(50)]
    assert len(repr(Embeddings.from_dict({"data": data}))) < 2000
    assert len(repr(Messages(role="user", content="да" * 100_000))) < 500
    assert len(repr(JSONObject.from_dict({"a": [[list(range(100))] * 50] * 50}))) < 5000
    few = [{"id": str(number)} for number in range(3)]
    assert repr(Models.from_dict({"data": few})) == "Models(data=[Model(id='0'), Model(id='1'), Model(id='2')])"


@pytest.mark.parametrize("kind", MODELS, ids=lambda kind: kind.__name__)
def test_signature(kind):
    """The signature of a model has its fields, for help(), editors and notebooks."""
    parameters = dict(inspect.signature(kind).parameters)
    parameters.pop("more", None)  # of those that take any name
    assert list(parameters) == list(kind.__dataclass_fields__)
    required = [name for name, field in parameters.items() if field.default is inspect.Parameter.empty]
    fields = kind.__dataclass_fields__.values()
    assert required == [f.name for f in fields if f.default is f.default_factory is dataclasses.MISSING]


def test_signature_in_words():
    """Names, types and defaults are there; a constructor that takes more says so."""
    assert str(inspect.signature(Usage)).startswith("(prompt_tokens: 'int' = 0, completion_tokens: 'int' = 0")
    assert "messages: 'List[Messages]'" in pydoc.render_doc(Chat, renderer=pydoc.plaintext)
    assert list(inspect.signature(Function).parameters)[-1] == "more"


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Chat(temprature=1), r"\AChat takes no 'temprature': temperature\?"),
        (lambda: Chat(messages=["x"], zzz=1), r"\AChat takes no 'zzz': messages, model, "),
        (lambda: Chat(), r"\AChat lacks messages"),
        (lambda: Messages("user", role="user"), r"'role' twice"),
        (lambda: Usage(1, 2, 3, 4, 5), r"\AUsage takes prompt_tokens, "),
    ],
)
def test_wrong_arguments_in_words(make, said):
    """The wrong name comes first, and the nearest right one behind it."""
    with pytest.raises(TypeError, match=said):
        make()


# ---------- bounds

LONG = 2 << 20
WORST = {
    "texts": b'{"data":[' + b'{"id":"x"},' * (LONG // 11) + b'{"id":"x"}]}',
    "keys": b'{"data":[],' + b",".join(b'"%d":1' % number for number in range(LONG // 12)) + b"}",
    "half of a text": b'{"data":[],"a":"' + b"\\\\" * (LONG // 2),
    "brackets": b"[" * LONG,
    "digits": b'{"data":[],"a":' + b"1" * LONG + b"}",
    "fraction": b'{"data":[],"a":0.' + b"1" * LONG + b"}",
    "lines": b"\n" * LONG + b'{"data":[]',
    "no utf-8": b'{"data":[],"a":"' + b"\xff" * LONG + b'"}',
}


@pytest.mark.parametrize("body", WORST.values(), ids=list(WORST))
def test_no_body_takes_long(body):
    """2 MB of anything are read, or refused, in a time that grows with their length only."""
    with RawServer(always(answer(body))) as server, raw_client(server) as client:
        started = time.process_time()
        try:
            client.get_models()
        except InvalidResponseError:
            pass
        assert time.process_time() - started < 5


def test_a_model_is_no_dict():
    """Who takes an answer for a dict is told what to write."""
    answer = Chat(messages=["a"])
    with pytest.raises(TypeError, match=r"write \.messages, or to_dict\(\)\['messages'\]"):
        answer["messages"]
    with pytest.raises(TypeError):
        list(answer)
    with pytest.raises(TypeError):
        dict(answer)

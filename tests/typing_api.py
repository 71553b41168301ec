"""What a user's editor sees. Only type-checked, never run: mypy --strict and pyright, against the installed wheel.

A line that is wrong on purpose has a ``type: ignore``; one too many is an error, so each wrong line is pinned.
"""

# mypy: warn-unused-ignores
# pyright: strict, reportUnnecessaryTypeIgnoreComment=true, reportUnusedCoroutine=false

import io
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

from typing_extensions import assert_type

import gigachat_lite
from gigachat_lite import (
    AccessToken,
    AICheckResult,
    Assistants,
    AsyncStream,
    Balance,
    Batch,
    BatchResult,
    Chat,
    ChatCompletion,
    ChatCompletionChunk,
    ChatCompletionRequest,
    ChatCompletionResponse,
    ChatMessage,
    ChatSource,
    DeletedFile,
    Embeddings,
    FilterCheck,
    Function,
    FunctionCall,
    FunctionValidation,
    GigaChat,
    GigaChatAsyncClient,
    GigaChatException,
    GigaChatSyncClient,
    Image,
    Messages,
    MessagesRole,
    Model,
    Models,
    OpenApiFunctions,
    PrimaryChatCompletionChunk,
    PrimaryChatFunctionCall,
    RateLimitError,
    ResponseError,
    Stream,
    Threads,
    TokensCount,
    UploadedFile,
    UploadedFiles,
    Usage,
    session_id_cvar,
)


def settings() -> None:
    GigaChat()
    GigaChat(credentials="key", scope="GIGACHAT_API_B2B", timeout=1, verify_ssl_certs=True, max_retries=2)
    GigaChat(ssl_context=ssl.create_default_context(), retry_on_status_codes=(429, 500), flags=["a"], proxy="")
    GigaChat("key")  # type: ignore[arg-type]
    GigaChat(timeout="1")  # type: ignore[arg-type]
    GigaChat(verify_ssl_certs="no")  # type: ignore[arg-type]
    assert_type(gigachat_lite.__version__, str)


def calls(client: GigaChat) -> None:
    assert_type(client.chat("Hello"), ChatCompletion)
    assert_type(client.chat({"messages": [{"role": "user", "content": "Hello"}]}), ChatCompletion)
    assert_type(client.chat([Messages(role="user", content="Hello"), {"role": "user"}, "Hello"]), ChatCompletion)
    assert_type(client.chat(Chat(messages=[Messages(role=MessagesRole.USER)], temperature=0.5)), ChatCompletion)
    assert_type(client.stream("Hello"), Stream[ChatCompletionChunk])
    assert_type(client.chat.create("Hello"), ChatCompletionResponse)
    assert_type(client.chat.create({"messages": ["Hello"], "tools": ["web_search"]}), ChatCompletionResponse)
    assert_type(client.chat.create([ChatMessage(role="user"), {"role": "user"}, "Hello"]), ChatCompletionResponse)
    assert_type(client.chat.stream(ChatCompletionRequest(messages=[])), Stream[PrimaryChatCompletionChunk])
    assert_type(client.get_token(), Optional[AccessToken])
    assert_type(client.get_models(), Models)
    assert_type(client.get_model("GigaChat"), Model)
    assert_type(client.embeddings("text"), Embeddings)
    assert_type(client.embeddings(["text"], model="EmbeddingsGigaR"), Embeddings)
    assert_type(client.tokens_count(["text"]), List[TokensCount])
    assert_type(client.upload_file(b"content"), UploadedFile)
    assert_type(client.upload_file(Path("a.txt"), purpose="general"), UploadedFile)
    assert_type(client.upload_file(("a.txt", io.BytesIO(), "text/plain")), UploadedFile)
    assert_type(client.get_file("id"), UploadedFile)
    assert_type(client.get_files(), UploadedFiles)
    assert_type(client.delete_file("id"), DeletedFile)
    assert_type(client.get_image("id"), Image)
    assert_type(client.download_file("id", Path("a.txt")), bytes)
    assert_type(client.get_balance(), Balance)
    assert_type(client.check_ai("text", "GigaCheckDetection"), AICheckResult)
    assert_type(client.openapi_function_convert("openapi: 3.0.0"), OpenApiFunctions)
    assert_type(client.validate_function({"name": "f"}), FunctionValidation)
    assert_type(client.check_filter("text", neuro=True), FilterCheck)
    assert_type(client.create_batch(["Hello"]), Batch)
    assert_type(client.get_batches(), List[Batch])
    assert_type(client.batch_results(client.get_batch("id")), Stream[BatchResult])
    assert_type(client.assistants.get(), Assistants)
    assert_type(client.threads.list(), Threads)


def wrong_calls(client: GigaChat) -> None:
    client.chat()  # type: ignore[call-arg]
    client.chat(1)  # type: ignore[arg-type]
    client.chat("Hello", temperature=1)  # type: ignore[arg-type]
    client.chat.create()  # type: ignore[call-arg]
    client.chat.create(1)  # type: ignore[arg-type]
    client.chat.stream("Hello", stream=True)  # type: ignore[arg-type]
    client.stream(None)  # type: ignore[arg-type]
    client.get_model(1)  # type: ignore[arg-type]
    client.embeddings([1])  # type: ignore[list-item]
    client.upload_file(1)  # type: ignore[arg-type]
    client.upload_file(io.StringIO())  # type: ignore[arg-type]
    client.check_ai("text")  # type: ignore[call-arg]
    client.ask("Hello")  # type: ignore[attr-defined]


async def twins(client: GigaChat) -> None:
    assert_type(await client.achat("Hello"), ChatCompletion)
    assert_type(await client.achat(payload=[Messages(role="user", content="Hello")]), ChatCompletion)
    assert_type(client.astream("Hello"), AsyncStream[ChatCompletionChunk])
    assert_type(await client.achat.create("Hello"), ChatCompletionResponse)
    assert_type(client.achat.stream(payload="Hello"), AsyncStream[PrimaryChatCompletionChunk])
    assert_type(await client.aget_token(), Optional[AccessToken])
    assert_type(await client.aget_models(), Models)
    assert_type(await client.aget_model("GigaChat"), Model)
    assert_type(await client.aembeddings(["text"], model="Embeddings"), Embeddings)
    assert_type(await client.atokens_count("text", model=None), List[TokensCount])
    assert_type(await client.aupload_file(("a.txt", b""), purpose="general"), UploadedFile)
    assert_type(await client.aget_file("id"), UploadedFile)
    assert_type(await client.aget_files(), UploadedFiles)
    assert_type(await client.adelete_file("id"), DeletedFile)
    assert_type(await client.aget_image("id"), Image)
    assert_type(await client.adownload_file("id", to=io.BytesIO()), bytes)
    assert_type(await client.aget_balance(), Balance)
    assert_type(await client.acheck_ai("text", "GigaCheckDetection"), AICheckResult)
    assert_type(await client.aopenapi_function_convert("openapi: 3.0.0"), OpenApiFunctions)
    assert_type(await client.avalidate_function(Function(name="f")), FunctionValidation)
    assert_type(await client.acheck_filter(["text"], "GigaFilter", blacklist=True), FilterCheck)
    assert_type(await client.acreate_batch(b"{}\n", method="embedder"), Batch)
    assert_type(await client.aget_batches(), List[Batch])
    assert_type(client.abatch_results(await client.aget_batch("id")), AsyncStream[BatchResult])
    assert_type(await client.a_assistants.get("id"), Assistants)
    assert_type(await client.a_threads.list(limit=1), Threads)


async def wrong_twins(client: GigaChat) -> None:
    await client.achat()  # type: ignore[call-arg]
    await client.achat(1)  # type: ignore[arg-type]
    await client.achat("Hello", temperature=1)  # type: ignore[arg-type]
    await client.achat.create(1)  # type: ignore[arg-type]
    await client.achat.stream("Hello")  # type: ignore[misc]
    await client.aget_model(model=1)  # type: ignore[arg-type]
    await client.astream("Hello")  # type: ignore[misc]
    client.astream(None)  # type: ignore[arg-type]
    await client.a_threads.list(limit="1")  # type: ignore[arg-type]
    print(client.achat("Hello").choices)  # type: ignore[attr-defined]


def streams(client: GigaChat) -> None:
    with client.stream("Hello") as stream:
        assert_type(stream, Stream[ChatCompletionChunk])
        for chunk in stream:
            assert_type(chunk, ChatCompletionChunk)
            assert_type(chunk.choices[0].delta.content, Optional[str])
            assert_type(chunk.usage, Optional[Usage])
        stream.close()
    async_stream = client.astream("Hello")
    for _ in async_stream:  # type: ignore[attr-defined]
        pass


async def async_streams(client: GigaChat) -> None:
    async with client.astream("Hello") as stream:
        async for chunk in stream:
            assert_type(chunk, ChatCompletionChunk)
        await stream.aclose()
    assert_type([chunk async for chunk in client.astream("Hello")], List[ChatCompletionChunk])


@dataclass
class Plan:
    title: str


def get_weather(city: str) -> Dict[str, int]:
    return {"temperature": len(city)}


def typed_answers(client: GigaChat) -> None:
    completion, plan = client.chat_parse("Hello", response_format=Plan)
    assert_type(completion, ChatCompletion)
    assert_type(plan, Plan)
    assert_type(client.chat_parse("Hello", response_format=List[Plan], strict=False)[1], List[Plan])
    assert_type(client.chat_parse("Hello", response_format={"type": "object"})[1], Any)
    assert_type(gigachat_lite.schema_of(Plan), Dict[str, Any])
    assert_type(Function.of(get_weather), Function)
    assert_type(client.run_tools("Hello", [get_weather]), Tuple[ChatCompletion, List[Messages]])
    assert_type(client.with_options(timeout=1, session_id="session"), GigaChat)
    assert_type(client.stream("Hello").get_final_completion(), ChatCompletion)
    assert_type(list(client.stream("Hello").text_stream), List[str])
    assert_type(client.chat.parse("Hello", response_format=Plan), Tuple[ChatCompletionResponse, Plan])
    assert_type(client.chat.parse("Hello", response_format={})[1], Any)
    assert_type(client.chat.run_tools("Hello", [get_weather, "web_search"])[1], List[ChatMessage])
    assert_type(client.chat.stream("Hello").get_final_completion(), ChatCompletionResponse)
    client.with_options(base_url="")  # type: ignore[call-arg]
    client.chat_parse("Hello")  # type: ignore[call-overload]


async def async_typed_answers(client: GigaChat) -> None:
    completion, plan = await client.achat_parse("Hello", response_format=Plan)
    assert_type(completion, ChatCompletion)
    assert_type(plan, Plan)
    assert_type((await client.achat_parse("Hello", response_format={"type": "object"}))[1], Any)
    assert_type(await client.arun_tools("Hello", [get_weather]), Tuple[ChatCompletion, List[Messages]])
    assert_type(await client.astream("Hello").get_final_completion(), ChatCompletion)
    assert_type(await client.achat.parse("Hello", response_format=Plan), Tuple[ChatCompletionResponse, Plan])
    assert_type((await client.achat.run_tools("Hello", [get_weather]))[0], ChatCompletionResponse)
    assert_type(await client.achat.stream("Hello").get_final_completion(), ChatCompletionResponse)
    assert_type([text async for text in client.astream("Hello").text_stream], List[str])


def answers(answer: ChatCompletion, model: Model, file: UploadedFile) -> None:
    message = answer.choices[0].message
    assert_type(message, Messages)
    assert_type(message.content, str)
    assert_type(message.function_call, Optional[FunctionCall])
    assert_type(answer.choices[0].finish_reason, Optional[str])
    assert_type(answer.usage, Usage)  # as in the official SDK
    assert_type(answer.x_headers, Optional[Dict[str, Optional[str]]])
    assert_type(answer.to_dict(), Dict[str, Any])
    assert_type(ChatCompletion.from_dict({}), ChatCompletion)
    assert_type(model.id, str)
    assert_type(model.id_, str)
    assert_type(file.id, str)
    assert_type(gigachat_lite.file_ids(answer), List[str])
    print(answer.choices[0].text)  # type: ignore[attr-defined]
    assert_type(answer.usage.total_tokens, int)
    Messages(content="no role")  # type: ignore[call-arg]
    Chat(messages="Hello")  # type: ignore[arg-type]


def second_version(answer: ChatCompletionResponse, chunk: PrimaryChatCompletionChunk) -> None:
    assert_type(answer.messages, List[ChatMessage])
    assert_type(answer.message, Optional[ChatMessage])
    assert_type(answer.text, str)
    assert_type(answer.sources, List[ChatSource])
    assert_type(answer.messages[0].role, str)
    assert_type(answer.messages[0].function_calls, List[PrimaryChatFunctionCall])
    assert_type(chunk.event, Optional[str])
    assert_type(chunk.text, str)
    assert_type(gigachat_lite.file_ids(answer), List[str])
    ChatMessage(content=None)  # type: ignore[call-arg]
    ChatCompletionRequest(messages="Hello")  # type: ignore[arg-type]


def clients() -> None:
    with GigaChat() as client, GigaChatSyncClient() as half:
        assert_type(client, GigaChat)
        assert_type(half, GigaChatSyncClient)
        half.achat("Hello")  # type: ignore[attr-defined]


async def async_clients() -> None:
    async with GigaChat() as client, GigaChatAsyncClient() as half:
        assert_type(client, GigaChat)
        assert_type(await half.achat("Hello"), ChatCompletion)
        half.chat("Hello")  # type: ignore[attr-defined]


def errors(client: GigaChat) -> None:
    session_id_cvar.set("session")
    session_id_cvar.set(1)  # type: ignore[arg-type]
    try:
        client.chat("Hello")
    except RateLimitError as error:
        assert_type(error.retry_after, float)
    except ResponseError as error:
        assert_type(error.status_code, int)
        assert_type(error.content, bytes)
        assert_type(error.request_id, Optional[str])
    except GigaChatException as error:
        print(error.status_code)  # type: ignore[attr-defined]

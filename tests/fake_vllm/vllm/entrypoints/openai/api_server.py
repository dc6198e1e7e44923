"""As much of vLLM's server as superalign asks for, started as it is. Standard library alone.

A reply follows from model, prompt and seed. What happens stands in $FAKE_NOTES, a line each. A
prompt that begins with `$FAKE_POISON` ends the process, and SIGUSR1 lets it live and never answer.
"""

import argparse
import asyncio
import json
import os
import signal
import zlib

parser = argparse.ArgumentParser()
for name in ("--model", "--served-model-name", "--uds"):
    parser.add_argument(name, required=True)
ARGS, REST = parser.parse_known_args()
MODELS = {ARGS.served_model_name}
SECONDS, POISON = float(os.environ.get("FAKE_SECONDS", 0)), os.environ.get("FAKE_POISON")
ANSWERS = asyncio.Event()


def note(*words: str) -> None:
    with open(os.environ["FAKE_NOTES"], "a") as notes:
        print(*words, file=notes)


def reply(path: str, body: dict) -> tuple[int, object]:
    if path == "/v1/load_lora_adapter":
        if not os.path.exists(f"{body['lora_path']}/adapter_model.safetensors"):
            return 404, {"error": {"message": f"No adapter found for {body['lora_path']}"}}
        MODELS.add(body["lora_name"])
        note("load", body["lora_name"])
        return 200, "Success"
    if path == "/v1/unload_lora_adapter":
        MODELS.remove(body["lora_name"])
        note("unload", body["lora_name"])
        return 200, "Success"
    if path != "/v1/completions" or body["model"] not in MODELS:
        return 404, {"error": {"message": f"the model {body.get('model')} does not exist"}}
    note("said", body["model"])
    asked = json.dumps([body["model"], body["prompt"], body.get("seed")]).encode()
    ids = [42 + int(digit) for digit in str(zlib.crc32(asked))[:3]]
    ids = [*ids, 2][: body["max_tokens"]]
    finish = "stop" if ids[-1] == 2 else "length"
    choice = {"text": "", "token_ids": ids, "finish_reason": finish}
    choice["logprobs"] = {"token_logprobs": [-0.25] * len(ids)}
    usage = {"prompt_tokens": len(body["prompt"]), "completion_tokens": len(ids)}
    return 200, {"choices": [choice], "usage": usage}


def silence() -> None:
    ANSWERS.clear()
    note("silent")


async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while head := await reader.readuntil(b"\r\n\r\n"):
        first, *lines = head.decode().strip().split("\r\n")
        pairs = (line.lower().split(": ", 1) for line in lines)
        body = json.loads(await reader.readexactly(int(dict(pairs)["content-length"])))
        if POISON and body.get("prompt", [])[:1] == [int(POISON)]:
            os._exit(1)
        await asyncio.sleep(SECONDS)
        await ANSWERS.wait()
        status, told = reply(first.split()[1], body)
        text = json.dumps(told).encode()
        writer.write(f"HTTP/1.1 {status} X\r\ncontent-length: {len(text)}\r\n\r\n".encode() + text)
        await writer.drain()


async def quiet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        await talk(reader, writer)
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def serve() -> None:
    note("start", str(os.getpid()), *REST)
    if "FAKE_DIES" in os.environ:
        raise ValueError("no room for the weights")
    ANSWERS.set()
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, silence)
    async with await asyncio.start_unix_server(quiet, ARGS.uds) as server:
        await server.serve_forever()


asyncio.run(serve())

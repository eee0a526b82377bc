"""The client against a server with every fault in turn."""

import asyncio
import logging
import time

import aiohttp
import pytest
from fake_sglang import KEY, FakeSGLang, answer, breaks_off, fails, hangs, replies, resets

from megatron_rl.errors import (
    GeneratorRequestError,
    GeneratorTimeoutError,
    GeneratorUnavailableError,
)
from megatron_rl.generation.client import SGLangClient, read_completion
from megatron_rl.registry import INCOMPLETE_WEIGHTS
from megatron_rl.types import Completion, Sampling

SAMPLING = Sampling(params={"temperature": 1.0, "max_new_tokens": 4})


def generate(
    server: FakeSGLang,
    *,
    api_key: str = KEY,
    timeout_s: float = 5.0,
    sampling: Sampling = SAMPLING,
) -> Completion:
    async def run() -> Completion:
        async with server, aiohttp.ClientSession() as session:
            client = SGLangClient(
                session,
                server.url,
                api_key=api_key,
                max_attempts=3,
                backoff_s=0.01,
                timeout_s=timeout_s,
            )
            return await client.generate([5, 6], sampling, request_id="g1-c0", cache_key="3")

    return asyncio.run(run())


def test_a_completion_carries_ids_logprobs_and_the_version_of_each_token():
    tokens = [(-0.5, 17), (-1.5, 4), (-0.25, 1)]
    completion = generate(
        FakeSGLang(replies(tokens=tokens, spans=[("3", 0, 1), ("4", 1, 3)], finish="length"))
    )
    assert completion == Completion(
        token_ids=(17, 4, 1),
        logprobs=(-0.5, -1.5, -0.25),
        policy_versions=(3, 4, 4),  # span 3 covers token 0, span 4 covers tokens 1 and 2
        finish_reason="length",
    )


def test_the_request_asks_for_logprobs_of_sampled_ids():
    server = FakeSGLang()
    generate(server)
    (request,) = server.requests
    assert request.pop("rid").startswith("g1-c0")
    assert request == {
        "input_ids": [5, 6],
        "sampling_params": SAMPLING.params,
        "return_logprob": True,
        "extra_key": "3",
    }


@pytest.mark.parametrize("fault", [fails(503), fails(429), fails(500), resets, breaks_off])
def test_what_can_heal_is_tried_again(fault):
    server = FakeSGLang(fault, replies())
    assert generate(server).token_ids == (7,)
    assert len(server.requests) == 2


def test_every_attempt_has_an_id_of_its_own_since_the_server_may_know_the_last():
    server = FakeSGLang(resets, fails(503), replies())
    generate(server)
    assert len({request["rid"] for request in server.requests}) == 3


def test_the_last_reason_is_kept_when_nothing_helps():
    server = FakeSGLang(fails(503, "warming up"))
    with pytest.raises(GeneratorUnavailableError, match=r"failed 3 times: HTTP 503: warming up"):
        generate(server)
    assert len(server.requests) == 3


def test_a_refused_request_is_not_repeated():
    server = FakeSGLang(fails(400, "prompt too long"))
    with pytest.raises(GeneratorRequestError, match="prompt too long"):
        generate(server)
    assert len(server.requests) == 1


def test_a_wrong_key_is_refused_and_neither_told_nor_logged(caplog):
    caplog.set_level(logging.DEBUG)
    with pytest.raises(GeneratorRequestError, match="HTTP 401") as caught:
        generate(FakeSGLang(), api_key="a-secret")
    assert "a-secret" not in f"{caught.value!r} {caplog.text}"


def test_the_timeout_covers_all_attempts():
    started = time.monotonic()
    with pytest.raises(GeneratorTimeoutError, match=r"within 0\.3 s"):
        generate(FakeSGLang(hangs), timeout_s=0.3)
    assert time.monotonic() - started < 2


def test_a_server_that_is_not_there_is_unavailable():
    async def run() -> None:
        async with aiohttp.ClientSession() as session:
            client = SGLangClient(
                session,
                "http://127.0.0.1:1",
                api_key=KEY,
                max_attempts=2,
                backoff_s=0.01,
                timeout_s=5.0,
            )
            await client.generate([1], SAMPLING, request_id="r", cache_key=None)

    with pytest.raises(GeneratorUnavailableError, match="failed 2 times: ClientConnectorError"):
        asyncio.run(run())


def test_an_aborted_completion_may_be_generated_elsewhere():
    with pytest.raises(GeneratorUnavailableError, match="aborted"):
        generate(FakeSGLang(replies(finish="abort")))


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        (answer(spans=[("default", 0, 1)]), "'default', which is no policy version"),
        (answer(spans=[("3", 0, 2)]), "versions of 2 tokens out of 1"),
        (answer(spans=[("3", 1, 2)]), "with gaps"),
        (answer(finish="bored"), "unknown finish_reason"),
        ({"text": "hello"}, "unknown format"),
        ([], "unknown format"),
    ],
)
def test_an_answer_that_cannot_be_understood_is_refused(body, complaint):
    with pytest.raises(GeneratorRequestError, match=complaint):
        read_completion(body, source="http://server")


TRUNCATED = Sampling(params={"top_k": 4}, returns_support=True)


def truncated_answer(**changes):
    """Return an answer of two tokens, 7 of {7, 9} and 4, which had to be chosen."""
    body = answer(tokens=[(-2.0, 7), (-1.0, 4)])
    body["meta_info"] |= {
        "output_token_sampling_mask": [[9, 7], [4]],
        "output_token_sampling_logprobs": [-0.5, 0.0],
        **changes,
    }
    return body


def test_a_truncated_sampler_is_described_by_its_own_logprobs():
    completion = read_completion(truncated_answer(), source="http://server", has_support=True)
    assert completion.logprobs == (-0.5, 0.0)
    assert completion.support.rows() == [[9, 7], [4]]


def test_what_tokens_were_chosen_from_is_asked_for_where_it_is_wanted():
    server = FakeSGLang(replies(body=truncated_answer()))
    assert generate(server, sampling=TRUNCATED).support is not None
    assert server.requests[0]["return_sampling_mask"] is True
    assert server.requests[0]["sampling_params"] == {"top_k": 4}


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"output_token_sampling_mask": [[9, 7]]}, "what 1 tokens were chosen from, of 2"),
        ({"output_token_sampling_mask": [[9], [4]]}, "token 7 at position 0, which is none of"),
        ({"output_token_sampling_logprobs": [-0.5]}, "reports 1 log-probs of 2 tokens"),
    ],
)
def test_a_description_that_does_not_fit_is_refused(changes, complaint):
    with pytest.raises(GeneratorRequestError, match=complaint):
        read_completion(truncated_answer(**changes), source="http://server", has_support=True)


def test_a_server_that_does_not_say_what_it_chose_from_is_refused():
    with pytest.raises(GeneratorRequestError, match="does not say what tokens were chosen from"):
        read_completion(answer(), source="http://server", has_support=True)


def test_an_aborted_completion_without_any_token_is_no_format_error():
    body = {"meta_info": {"finish_reason": {"type": "abort", "message": "paused"}}}
    with pytest.raises(GeneratorUnavailableError, match="paused"):
        read_completion(body, source="http://server")


def test_a_completion_without_tokens_has_no_versions():
    completion = read_completion(answer(tokens=(), spans=[("3", 0, 0)]), source="http://server")
    assert completion.policy_versions == ()


def test_tokens_of_weights_that_were_still_arriving_are_sampled_again_elsewhere():
    spans = [("3", 0, 1), (INCOMPLETE_WEIGHTS, 1, 2)]
    with pytest.raises(GeneratorUnavailableError, match="only a part is new"):
        read_completion(answer(tokens=[(-1.0, 5)] * 2, spans=spans), source="http://server")

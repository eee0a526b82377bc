"""HTTP client for one SGLang server. Knows the wire format and nothing else."""

import asyncio
import json
import random
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import aiohttp

from megatron_rl.errors import (
    GeneratorRequestError,
    GeneratorTimeoutError,
    GeneratorUnavailableError,
)
from megatron_rl.registry import INCOMPLETE_WEIGHTS
from megatron_rl.sequences import SamplingSupport
from megatron_rl.types import Completion, Sampling

_RETRYABLE_STATUS = frozenset({429, 500, 502, 503, 504})
_FINISHED = frozenset({"stop", "length"})


class SGLangClient:
    """Client of one server: token ids in, sampled token ids with their logprobs out."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        base_url: str,
        *,
        api_key: str,
        max_attempts: int,
        backoff_s: float,
        timeout_s: float,
    ) -> None:
        """Bind to one server.

        Args:
            session: shared by all clients; closed by its owner.
            base_url: ``http://host:port`` of the server.
            api_key: bearer key of the server; it never appears in an error or a log line.
            max_attempts: attempts of a request whose failure may heal.
            backoff_s: first pause between attempts; doubles each time.
            timeout_s: longest time one completion may take, all attempts together.
        """
        self._session = session
        self._base_url = base_url
        self._headers = {"Authorization": f"Bearer {api_key}"}
        self._max_attempts = max_attempts
        self._backoff_s = backoff_s
        self._timeout_s = timeout_s

    async def generate(
        self,
        prompt_ids: Sequence[int],
        sampling: Sampling,
        *,
        request_id: str,
        cache_key: str | None,
    ) -> Completion:
        """Sample one completion.

        Args:
            prompt_ids: token ids of the prompt, each below the model's vocabulary size.
            sampling: parameters, and whether to return what tokens were chosen from.
            request_id: prefix of the id the server logs.
            cache_key: cached prompts are shared only among requests of one key. An in-flight
                update keeps the cache, so without the policy version here a new request would
                reuse what an older policy computed of its prompt.

        Raises:
            GeneratorRequestError: the server refuses the request, or its answer cannot be read.
            GeneratorTimeoutError: the completion takes longer than ``timeout_s``.
            GeneratorUnavailableError: no answer in spite of retries, or the request was aborted.
        """
        payload: dict[str, Any] = {
            "input_ids": list(prompt_ids),
            "sampling_params": dict(sampling.params),
            "return_logprob": True,
            "extra_key": cache_key,
        }
        if sampling.returns_support:
            payload["return_sampling_mask"] = True
        try:
            async with asyncio.timeout(self._timeout_s):
                body = await self._post("/generate", payload, request_id=request_id)
        except TimeoutError as error:
            raise GeneratorTimeoutError(
                f"{self._base_url} did not finish {request_id} within {self._timeout_s} s "
                "(generators.request_timeout_s)"
            ) from error
        return read_completion(body, source=self._base_url, has_support=sampling.returns_support)

    async def _post(self, route: str, payload: dict[str, Any], *, request_id: str) -> Any:
        """POST with exponential backoff; only failures that may heal are retried."""
        url, failure = self._base_url + route, "no attempt made"
        for attempt in range(self._max_attempts):
            if attempt:
                await asyncio.sleep(self._backoff_s * 2 ** (attempt - 1) * random.uniform(0.5, 1.0))
            # The server refuses an id it still knows, and it may still know a lost attempt's.
            body = {"rid": f"{request_id}.{uuid.uuid4().hex[:8]}", **payload}
            try:
                async with self._session.post(url, json=body, headers=self._headers) as response:
                    text = await response.text()
            except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError) as error:
                failure = f"{type(error).__name__}: {error}"
                continue
            if response.status == 200:
                return _parse_json(text, source=url)
            failure = f"HTTP {response.status}: {text[:200]}"
            if response.status not in _RETRYABLE_STATUS:
                raise GeneratorRequestError(f"{url} rejected {request_id}: {failure}")
        raise GeneratorUnavailableError(f"{url} failed {self._max_attempts} times: {failure}")


def read_completion(body: Any, *, source: str, has_support: bool = False) -> Completion:
    """Read the answer of ``/generate``; ``source`` names the server in errors.

    With ``has_support`` log-probs are those of the truncated sampler, which SGLang reports beside
    those over the whole vocabulary.

    Example of ``body`` (two tokens, sampled by policy versions 3 and 4)::

        {"meta_info": {"finish_reason": {"type": "length", "length": 2},
                       "output_token_logprobs": [[-0.5, 17, None], [-1.5, 4, None]],
                       "weight_versions": [{"version": "3", "start": 0, "end": 1},
                                           {"version": "4", "start": 1, "end": 2}]}}
    """
    try:
        meta = body["meta_info"]
        reason = meta["finish_reason"]
        if reason["type"] == "abort":
            raise GeneratorUnavailableError(f"{source} aborted a request: {reason}")
        if reason["type"] not in _FINISHED:
            raise GeneratorRequestError(f"{source} reports an unknown finish_reason: {reason}")
        tokens = meta["output_token_logprobs"]
        token_ids = tuple(int(token_id) for _, token_id, *_ in tokens)
        logprobs = [logprob for logprob, *_ in tokens]
        support = None
        if has_support:
            support = _support(meta, token_ids, source=source)
            logprobs = meta["output_token_sampling_logprobs"]
            if len(logprobs) != len(token_ids):
                raise GeneratorRequestError(
                    f"{source} reports {len(logprobs)} log-probs of {len(token_ids)} tokens"
                )
        return Completion(
            token_ids=token_ids,
            logprobs=tuple(map(float, logprobs)),
            support=support,
            policy_versions=_policy_versions(meta["weight_versions"], len(tokens), source=source),
            finish_reason=reason["type"],
        )
    except (KeyError, TypeError) as error:
        raise GeneratorRequestError(
            f"{source} answers in an unknown format ({type(error).__name__}: {error}): "
            f"{str(body)[:200]}"
        ) from error


def _support(meta: Mapping[str, Any], token_ids: Sequence[int], *, source: str) -> SamplingSupport:
    """Read what each token was chosen from; the token itself must be part of it."""
    if "output_token_sampling_mask" not in meta:
        raise GeneratorRequestError(
            f"{source} does not say what tokens were chosen from (return_sampling_mask), without "
            "which generators.sampling.top_k, top_p and min_p would bias training; use an sglang "
            "that does (0.5.21), or remove them"
        )
    rows = meta["output_token_sampling_mask"]
    if len(rows) != len(token_ids):
        raise GeneratorRequestError(
            f"{source} reports what {len(rows)} tokens were chosen from, of {len(token_ids)}"
        )
    for position, (row, token) in enumerate(zip(rows, token_ids, strict=True)):
        if token not in row:
            raise GeneratorRequestError(
                f"{source} reports token {token} at position {position}, which is none of the "
                f"{len(row)} it was chosen from"
            )
    return SamplingSupport.of_rows(rows)


def _policy_versions(
    spans: Sequence[Mapping[str, Any]], num_tokens: int, *, source: str
) -> tuple[int, ...]:
    """Expand the server's version spans to one version for each token."""
    versions: list[int] = []
    for span in spans:
        if span["version"] == INCOMPLETE_WEIGHTS:
            raise GeneratorUnavailableError(
                f"{source} sampled under weights of which only a part is new"
            )
        try:
            version = int(span["version"])
        except ValueError:
            raise GeneratorRequestError(
                f"{source} labels its weights {span['version']!r}, which is no policy version; "
                "only servers started by `megatron-rl serve` can be used"
            ) from None
        if span["start"] != len(versions):
            raise GeneratorRequestError(f"{source} reports version spans with gaps: {spans}")
        versions += [version] * (span["end"] - span["start"])
    if len(versions) != num_tokens:
        raise GeneratorRequestError(
            f"{source} reports versions of {len(versions)} tokens out of {num_tokens}: {spans}"
        )
    return tuple(versions)


def _parse_json(text: str, *, source: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise GeneratorRequestError(f"{source} answers no JSON: {text[:200]}") from error

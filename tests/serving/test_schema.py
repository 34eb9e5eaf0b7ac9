"""The running server against its own /openapi.json: requests that schemathesis makes up, legal and not, find no fault.

A few for each route by default; `TFGPT_EXAMPLES=200 pytest tests/serving/test_schema.py` tries more.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, given, settings

schemathesis = pytest.importorskip("schemathesis", reason="pip install schemathesis runs this one")

EXAMPLES = int(os.environ.get("TFGPT_EXAMPLES", "4"))


@pytest.mark.parametrize("mode", ["positive", "negative"])
def test_answers_are_as_the_document_says(server, mode):
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi import checks

    found = [not_a_server_error, checks.status_code_conformance, checks.content_type_conformance]
    found.append(checks.response_schema_conformance)
    tried = set()
    for operation in schemathesis.openapi.from_url(f"{server.url}/openapi.json").get_all_operations():
        case = operation.ok().as_strategy(generation_mode=schemathesis.GenerationMode(mode))

        @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
        @given(case=case)
        def holds(case):
            case.call_and_validate(checks=found, timeout=60)
            tried.add(case.path)

        if mode == "positive" or operation.ok().body:
            holds()
    posted = {"/invocations", "/prime", "/v1/completions", "/v1/chat/completions"}
    assert tried >= (posted | {"/health", "/metrics", "/v1/models"} if mode == "positive" else posted)

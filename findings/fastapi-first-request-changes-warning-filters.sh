#!/bin/sh
# FastAPI 0.165.0 (Starlette 1.10.0, pydantic 2.14.4): the first request to an included router changes the warning
# filters of the whole process, and two such requests in two threads leave them changed for good.
#
# Behaviour: `include_router` only notes the router. Its routes are built at the first request, and each parameter's
# type adapter is made inside `warnings.catch_warnings()`, which saves and restores a list that all threads share.
# If app B's first request begins between the beginning and the end of app A's, B saves the filters that A has set, and
# restores them when A's have long been undone: a filter that ignores a pydantic warning stays for the rest of the
# process. The other way round, B makes its adapters with A's restored filters: with `-W error`, as in many test suites,
# a pydantic warning that FastAPI means to silence makes the request a 500.
#
# Expected by most: all routes are built when the application is; a request changes nothing that is process-wide.
# What helps: `app.router.routes.extend(router.routes)` instead of `app.include_router(router)`; then no request enters
# `catch_warnings` (the OpenAPI document does, when first asked for: build it before serving, too).
#
# Output seen (CPython 3.11):
#   included: catch_warnings entered by the first request: True, by the second: False
#   extended: catch_warnings entered by the first request: False, by the second: False
#   two first requests in two threads: 200 200, filters left behind: 1 (ignore UnsupportedFieldAttributeWarning)
#
# Exits with 0 while this is so, and with 1 once it is not. Needs a Python of 3.10 to 3.13 with venv, and PyPI.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    fastapi==0.165.0 starlette==1.10.0 pydantic==2.14.4 httpx==0.28.1
"$folder/venv/bin/python" - <<'EOF'
import asyncio
import sys
import threading
import warnings

import httpx
from fastapi import APIRouter, FastAPI

WAIT_SECONDS = 30
entered = 0
real_enter = warnings.catch_warnings.__enter__


def counting_enter(self):
    global entered
    entered += 1
    return real_enter(self)


def ask(app):
    async def send():
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return (await client.get("/?number=1")).status_code

    return asyncio.run(send())


def entries(app):
    before = entered
    assert ask(app) == 200
    return entered > before


def plain_router():
    router = APIRouter()

    @router.get("/")
    def root(number: int) -> int:
        return number

    return router


warnings.catch_warnings.__enter__ = counting_enter
included, extended = FastAPI(), FastAPI()
included.include_router(plain_router())
extended.router.routes.extend(plain_router().routes)
found = {"included": [entries(included) for _ in range(2)], "extended": [entries(extended) for _ in range(2)]}
for name, (first, second) in found.items():
    print(f"{name}: catch_warnings entered by the first request: {first}, by the second: {second}")
warnings.catch_warnings.__enter__ = real_enter

# Two applications. pydantic asks a parameter's type for its schema while the adapter is made, inside catch_warnings:
# there A waits until B is inside, and B until A has answered. So the order is always the same.
a_inside, b_inside, a_answered = threading.Event(), threading.Event(), threading.Event()
serving = False


def type_of(inside, wait_for):
    class Number(int):
        @classmethod
        def __get_pydantic_core_schema__(cls, source, handler):
            if serving:
                inside.set()
                assert wait_for.wait(WAIT_SECONDS), "the other request never came so far"
            return handler(int)

    return Number


def app_of(number_type):
    router, app = APIRouter(), FastAPI()

    def root(number: number_type):
        return 1

    router.get("/")(root)
    app.include_router(router)
    return app


def first_request(name, app, answers, answered=None):
    answers[name] = ask(app)
    if answered is not None:
        answered.set()


app_a, app_b = app_of(type_of(a_inside, b_inside)), app_of(type_of(b_inside, a_answered))
answers, before, serving = {}, list(warnings.filters), True
one = threading.Thread(target=first_request, args=("a", app_a, answers, a_answered))
other = threading.Thread(target=first_request, args=("b", app_b, answers))
one.start()
assert a_inside.wait(WAIT_SECONDS), "nothing was built at the first request"
other.start()
one.join()
other.join()
left = [each for each in warnings.filters if each not in before]
words = ", ".join(f"{action} {category.__name__}" for action, _, category, *_ in left)
print(f"two first requests in two threads: {answers['a']} {answers['b']}, filters left behind: {len(left)} ({words})")
same = found == {"included": [True, False], "extended": [False, False]} and len(left) == 1
sys.exit(0 if same else 1)
EOF

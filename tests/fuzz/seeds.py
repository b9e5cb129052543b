"""Where each target begins, and the words it is given; hypothesis puts them together too."""

from __future__ import annotations

import json

_OK = b"HTTP/1.1 200 OK\r\n"
_CHUNKED = b"transfer-encoding: chunked\r\n\r\n"
_USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}'
_SHORT = b'data: {"choices":[],"usage":{}}'
_TOKEN = b'data: {"choices":[{"delta":{"content":"x"}}]}'
_BOTH = b'data: {"choices":[{"delta":{}}],"usage":{"prompt_tokens":1}}'
# Longer than what is held of an event where little is (`events.HELD_BYTES`).
_LONG = b"data: " + b"x" * 60
# What a source of choices reads before the rest, when it reads the first of everything.
_UPSTREAM, _EVENTS, _BODY, _PATH = b"\0\0\0\1\0\0", b"\0\1\0\0", b"\0\0", b"\0"
_MEDIA = b"\0\0"
_CLIENT = b"\1" + b"\0\1\0\2\0\0" + b"\2\1\0\3\0\0" + b"\0" + b"\0" + b"\0"

ANSWERS = (
    _OK + b"content-length: 2\r\n\r\nok",
    _OK + _CHUNKED + b"2\r\nok\r\n0\r\n\r\n",
    _OK + _CHUNKED + b"3;a=b\r\nabc\r\n0\r\nx-trailer: 1\r\n\r\n",
    _OK + b"content-type: text/event-stream\r\nconnection: close\r\n\r\ndata: x\n\n",
    b"HTTP/1.1 100 Continue\r\n\r\n" + _OK + b"content-length: 0\r\n\r\n",
    b"HTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.0 200 OK\r\n\r\nuntil the end",
    b"HTTP/1.1 503 Busy\r\ncontent-length: 4\r\nretry-after: 1\r\n\r\nbusy",
    b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n",
)
STREAMS = (
    _TOKEN + b"\n\n" + _USAGE + b"\n\ndata: [DONE]\n\n",
    _TOKEN + b"\r\n\r\n" + _USAGE + b"\r\n\r\n",
    _TOKEN + b"\r\r" + _USAGE + b"\r\r: note\r\r",
    b"event: x\n" + _USAGE + b"\nid: 1\n\n" + _TOKEN,
    b'data: {"choices":[],\ndata: "usage":{"prompt_tokens":1}}\n\n',
    _BOTH + b"\n\n" + _USAGE,
    _LONG + b"\n\n" + _SHORT + b"\n\n" + _TOKEN + b"\n\n",
    _LONG + b"\r\n" + _SHORT + b"\r\n\r\n" + _SHORT + b"\r\n\r\n",
)
BODIES = tuple(
    text.encode()
    for text in (
        '{"model":"m","stream":true,"messages":[{"role":"user","content":"hi"}]}',
        '\ufeff{"stream":true,"stream_options":null,"n":1e400}',
        '{"stream":"on","stream_options":{"include_usage":false}}',
        '{"stream":false,"stream":true,"x":[[{"a":"}"}]]}\n',
        '{"messages":[{"content":[{"type":"image_url"},{"type":"text"}]}],"stream":1}',
        '{"input":[{"content":[{"type":"input_image"}]}],"stre\\u0061m":true}',
    )
)
_PART = '{"type":"image_url","image_url":{"url":"http://a/b"}}'
MEDIA_BODIES = tuple(
    text.replace("PART", _PART).encode()
    for text in (
        '{"messages":[{"role":"user","content":[PART,{"type":"text","text":"é"}]}]}',
        '{"messages":[{"content":[{"image_url":"http://a/","uuid":"1"},PART,PART]}]}',
        '{"messages":[{"content":[{"type":"tool_result","content":[{"type":"image","source":'
        '{"type":"url","url":"https://a/"}}]}]}]}',
        '{"input":[{"type":"function_call_output","output":[{"image_url":"http://\\u0061/"}]}]}',
        '{"query":{"content":[PART]},"documents":[{"content":[PART]}],"n":NaN}',
        '\ufeff{"images":["http://a/",["file:/x"]],"input":"http://a/"}',
    )
)
TARGETS = (
    b"/v1/chat/completions?x=1",
    b"/v1/responses/resp_1/cancel",
    b"/v1/models/Qwen%2FQwen2-VL/..%2f",
    b"/v1/models/%2e%2e/pause#x",
    b"http://127.0.0.1:8000/v1/models",
    b"//v1/./../metrics/",
)
_HOST = b" HTTP/1.1\r\nhost: x\r\n"
_GET = b"GET /v1/models" + _HOST + b"\r\n"
_POST = b"POST /v1/chat/completions" + _HOST
_OFFER = b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\n"
REQUESTS = (
    _GET,
    _POST + b"content-length: 2\r\n\r\nok" + _GET,
    _POST + _CHUNKED + b"2;a=b\r\nok\r\n0\r\nx-trailer: 1\r\n\r\n" + _GET,
    _POST + b"expect: 100-continue\r\ncontent-length: 4\r\n\r\n{} \n",
    _POST + b"content-length: %d\r\n\r\n" % len(_GET) + _GET + _GET,
    _POST + _OFFER + b"content-length: %d\r\n\r\n" % len(_GET) + _GET + _GET,
    _POST + _OFFER + _CHUNKED + b"2\r\nok\r\n0\r\nupgrade: websocket\r\n\r\n" + _GET,
    b"HEAD /?x" + _HOST + b"connection: close\r\n\r\n" + _GET,
    b"GET / HTTP/1.0\r\nconnection: keep-alive\r\n\r\n" + _GET,
    _GET + _GET + b"GET /v1/realtime" + _HOST + b"connection: upgrade\r\nupgrade: websocket\r\n"
    b"sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
    _POST + _CHUNKED + b"2\r\nok\r\nrubbish\r\n",
)
SEEDS = {
    "upstream": [_UPSTREAM + answer for answer in ANSWERS],
    "events": [_EVENTS + stream for stream in STREAMS],
    "body": [_BODY + body for body in BODIES],
    "paths": [_PATH + target for target in TARGETS],
    "media": [_MEDIA + body for body in MEDIA_BODIES],
    "client": [_CLIENT + request for request in REQUESTS],
}
_JSON_WORDS = (
    *("stream", "stream_options", "model", "messages", "content", "type", "include_usage"),
    *("choices", "usage", "prompt_tokens", "true", "null", "\ud83d", "\x00"),
)
_JSON = tuple(json.dumps(word).encode() for word in _JSON_WORDS)
_LITERALS = (b"true", b"null", b"NaN", b"-Infinity", b"1e999", b"0.0", b"\xef\xbb\xbf", b"\\u0073")
TOKENS = {
    "upstream": (
        *(_OK, b"\r\n\r\n", b"\r\n", b"HTTP/1.1 ", b"100 Continue", b"content-length: 2\r\n"),
        *(b"connection: close\r\n", b"connection: keep-alive\r\n", b"transfer-encoding: ", b"0"),
        *(_CHUNKED, b"0\r\n\r\n", b"2\r\nok\r\n", b"upgrade: h2c\r\n", b"HTTP/1.0 ", b"gzip, "),
        *(b"099 ", b"204 No\r\n", b"304 N\r\n", b"700 ", b";a=b", b"\x00", b" folded", b"ok"),
    ),
    "events": (
        *(b"\n\n", b"\r\n\r\n", b"\r\r", b"\n", b"\r", b"data: ", b"data:", b"data", b"event: x"),
        *(
            b": note",
            b"[DONE]",
            _USAGE,
            _SHORT,
            _TOKEN,
            _BOTH,
            b"\x0b",
            b"\xff",
            b"{",
            b"}",
            b"x" * 64,
        ),
        *(b'"choices":[]', b'"usage":{}', b"NaN", b"\\u0075sage", b",", b"\xef\xbb\xbf", b" "),
    ),
    "body": (
        *(*_JSON, *_LITERALS, b"{", b"}", b"[", b"]", b":", b",", b" ", b"1" * 30),
        *(b'{"stream":true', b',"x":', b',"stream":', b',"stream_options":', b',"model":', b'"'),
        *(b',"messages":[{"content":', b"}]", b',"user":"', b"\\ud83d", b"\xff", b"[" * 40),
    ),
    "media": (
        *(b'{"messages":[', b'{"content":[', b'{"image_url":', b'{"url":', b'"http://a/"', b"]}"),
        *(b'"source":', b'"data:x,"', b"[", b"]", b"{", b"}", b",", b":", b'"', b" ", b"\\", b"1"),
        *(b"http:", b'"input":', b'"images":', b"NaN", b"\\ud83d", b"\xff", b"\xc3\xa9", b"\x00"),
    ),
    "paths": (
        *(b"/v1/models/", b"/v1/responses/", b"/cancel", b"/render", b"/pause", b"/..", b"/."),
        *(b"%2e", b"%2f", b"%00", b"%0a", b"?", b"#", b"//", b"http://", b"\\", b";", b"%", b"/v1"),
        *(b"/metrics", b"/sleep", b"/chat/completions", b"resp_1", b"@", b":80", b"\xc3\xbc", b"~"),
    ),
    "client": (
        *(_GET, _POST, _HOST, _OFFER, _CHUNKED, b"GET ", b"HEAD ", b"CONNECT ", b"/", b" HTTP/1.1"),
        *(b"\r\n", b"\r\n\r\n", b"0\r\n\r\n", b"2\r\nok\r\n", b"ok", b"HTTP/1.0\r\n", b"HTTP/2.0"),
        *(b"content-length: 2\r\n", b"connection: close\r\n", b"connection: keep-alive\r\n"),
        *(b"connection: upgrade\r\n", b"upgrade: websocket\r\n", b"expect: 100-continue\r\n"),
        *(b"transfer-encoding: ", b"chunked", b"identity", b", ", b"host: x\r\n", b";a=b", b"\x00"),
        *(b" folded", b"/v1/realtime?x=1#f", b"http://x/y", b"*", b"\xff", b": ", b"\t", b"\n"),
    ),
}

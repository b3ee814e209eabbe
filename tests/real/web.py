"""Requests to an application that keeps its session in cookies."""

import http.cookiejar
import json
import urllib.error
import urllib.request

from harness import Answer


class Session:
    """One signed-in user."""

    def __init__(self, url, headers=None):
        self.url = url
        self.headers = {"Content-Type": "application/json", **(headers or {})}
        cookies = urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar())
        self.opener = urllib.request.build_opener(cookies, urllib.request.ProxyHandler({}))

    def send(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, self.headers, method=method)
        try:
            with self.opener.open(request, timeout=120) as answer:
                return Answer(answer.status, answer.read().decode())
        except urllib.error.HTTPError as error:
            return Answer(error.code, error.read().decode(errors="replace"))

    def get(self, path):
        return self.send("GET", path)

    def post(self, path, body):
        return self.send("POST", path, body)

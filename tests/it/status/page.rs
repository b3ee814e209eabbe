//! The files of the status page: headers, caching, and that no other page may use them or its data.

use crate::support::*;
use ollama_openai_proxy::http::client_keys::ClientKeys;
use ollama_openai_proxy::http::cors::CorsPolicy;

/// A client key of the proxy.
const OWN: &str = "own-key-0f-the-proxy";

const FILES: [(&str, &str); 3] = [
    ("/status", "text/html; charset=utf-8"),
    ("/status.css", "text/css; charset=utf-8"),
    ("/status.js", "text/javascript; charset=utf-8"),
];

fn ask(proxy: &Proxy, method: &str, path: &str, lines: &str) -> Answer {
    proxy.client().with(method, path, lines, "").any_answer(method)
}

/// What a browser may do with it, which is the same for all responses.
fn assert_secure(answer: &Answer, path: &str) {
    let header = |name| answer.head.header(name).unwrap_or_default();
    let policy = header("content-security-policy");
    assert!(policy.starts_with("default-src 'none'; script-src 'self'; "), "{path}: {policy}");
    for (directive, is_there) in [
        ("connect-src 'self'", true),
        ("base-uri 'none'", true),
        ("form-action 'none'", true),
        ("frame-ancestors 'none'", true),
        ("unsafe", false),
        ("http", false),
    ] {
        assert_eq!(policy.contains(directive), is_there, "{path}: {policy}");
    }
    assert_eq!(header("x-content-type-options"), "nosniff", "{path}");
    assert_eq!(header("referrer-policy"), "no-referrer", "{path}");
    assert_eq!(header("cross-origin-resource-policy"), "same-origin", "{path}");
    let is_cors = |(name, _): &(String, String)| name.to_lowercase().starts_with("access-control");
    assert!(!answer.head.headers.iter().any(is_cors), "{path}");
}

#[test]
fn the_files_are_served_without_a_key_and_kept_by_their_tags() {
    let proxy = Proxy::with(&Upstream::start(), |config| {
        config.proxy_api_keys = ClientKeys::parse(OWN).expect("a key");
    });
    for (path, kind) in FILES {
        let told = ask(&proxy, "GET", path, "");
        assert_eq!((told.status(), told.head.header("content-type")), (200, Some(kind)), "{path}");
        assert_secure(&told, path);
        assert_eq!(told.head.header("cache-control"), Some("no-cache"), "{path}");
        assert!(told.body.len() > 1000, "{path}");
        let tag = told.head.header("etag").expect("a tag").to_owned();
        let head = ask(&proxy, "HEAD", path, "");
        let length = told.body.len().to_string();
        assert_eq!(head.head.header("content-length"), Some(&*length), "{path}");
        assert_eq!((head.status(), head.body.as_str()), (200, ""), "{path}");
        let known = format!("If-None-Match: W/\"x\", W/{tag}\r\n");
        let mut client = proxy.client();
        let again = client.with("GET", path, &known, "").head();
        assert_eq!((again.status, again.header("etag")), (304, Some(&*tag)), "{path}");
        assert_eq!(again.header("content-length"), None, "{path}");
        // Nothing follows that head but the next response.
        assert_eq!(client.get("/health").answer().status(), 200, "{path}");
        assert_eq!(ask(&proxy, "GET", path, "If-None-Match: \"x\"\r\n").body, told.body, "{path}");
        let post = ask(&proxy, "POST", path, &format!("Authorization: Bearer {OWN}\r\n"));
        assert_eq!((post.status(), post.body.as_str()), (405, "405 method not allowed"), "{path}");
        assert_eq!(post.head.header("allow"), Some("HEAD, GET"), "{path}");
    }
    assert!(ask(&proxy, "GET", "/status", "").body.contains("<html lang=\"en\">"));
}

#[test]
fn the_root_says_the_same_to_a_browser_as_to_others() {
    let proxy = Proxy::start(&Upstream::start());
    let told = ask(&proxy, "GET", "/", "Accept: text/html\r\nSec-Fetch-Mode: navigate\r\n");
    told.assert_body(200, "Ollama is running");
    assert_eq!(told.head.header("content-type"), Some("text/plain; charset=utf-8"));
}

#[test]
fn the_data_need_a_key_where_there_are_some() {
    let proxy = Proxy::with(&Upstream::start(), |config| {
        config.proxy_api_keys = ClientKeys::parse(OWN).expect("a key");
    });
    for method in ["GET", "HEAD"] {
        for lines in ["", "Authorization: Bearer wrong-key-1\r\n"] {
            let told = ask(&proxy, method, "/status.json", lines);
            assert_eq!(told.status(), 401, "{lines}");
            assert_secure(&told, lines);
        }
        for lines in [format!("Authorization: Bearer {OWN}\r\n"), format!("x-api-key: {OWN}\r\n")] {
            let told = ask(&proxy, method, "/status.json", &lines);
            assert_eq!(told.status(), 200, "{lines}");
            assert_eq!(told.head.header("cache-control"), Some("no-store"));
            assert_eq!(told.head.header("content-type"), Some("application/json; charset=utf-8"));
            assert_secure(&told, "/status.json");
        }
    }
    let refused = (0..20).map(|_| {
        ask(&proxy, "GET", "/status.json", "Authorization: Bearer wrong-key-1\r\n").status()
    });
    assert_eq!(refused.last(), Some(429));
}

#[test]
fn no_browser_asks_for_a_password_because_of_the_page() {
    let proxy = Proxy::with(&Upstream::start(), |config| {
        config.proxy_api_keys = ClientKeys::parse(OWN).expect("a key");
    });
    let own = "Sec-Fetch-Site: same-origin\r\n";
    for (path, lines, asks) in [
        ("/status.json", own, false),
        ("/status.json", "", false),
        // What the page sends to try a model.
        ("/api/tags", own, false),
        ("/api/tags", "", true),
    ] {
        let told = ask(&proxy, "GET", path, lines);
        assert_eq!(told.status(), 401);
        let has = |scheme: &str| {
            let is_one = |name: &str| name.eq_ignore_ascii_case("www-authenticate");
            told.head.headers.iter().any(|(name, value)| is_one(name) && value.starts_with(scheme))
        };
        assert_eq!((has("Bearer "), has("Basic ")), (true, asks), "{path} {lines}");
    }
}

#[test]
fn pages_of_other_origins_get_nothing_whatever_is_allowed_elsewhere() {
    let proxy = Proxy::with(&Upstream::start(), |config| {
        config.origins = CorsPolicy::parse("*").expect("origins");
    });
    let same = "Origin: http://localhost\r\n";
    for (lines, file, data) in [
        ("", 200, 200),
        (same, 200, 200),
        ("Sec-Fetch-Site: same-origin\r\n", 200, 200),
        ("Sec-Fetch-Site: none\r\n", 200, 200),
        // A link from anywhere.
        ("Sec-Fetch-Site: cross-site\r\n", 200, 403),
        ("Sec-Fetch-Site: same-site\r\n", 200, 403),
        ("Origin: http://localhost:3000\r\n", 403, 403),
        ("Origin: https://evil.test\r\n", 403, 403),
        ("Origin: null\r\n", 403, 403),
        ("Origin: app://obsidian.md\r\n", 403, 403),
    ] {
        let paths = FILES.iter().map(|(path, _)| (*path, file)).chain([("/status.json", data)]);
        for (path, expected) in paths {
            for method in ["GET", "HEAD"] {
                let told = ask(&proxy, method, path, lines);
                assert_eq!(told.status(), expected, "{method} {path} {lines}");
                assert_secure(&told, path);
            }
            let asks_first = format!("{lines}Access-Control-Request-Method: GET\r\n");
            let told = ask(&proxy, "OPTIONS", path, &asks_first);
            assert_ne!((told.status(), expected), (204, 403), "{path} {lines}");
            assert_secure(&told, path);
        }
        // Other routes are as open as they are configured to be.
        assert_eq!(ask(&proxy, "GET", "/api/version", lines).status(), 200, "{lines}");
    }
    let rebound = proxy.client().with_host("evil.test", "GET", "/status.json", "", "").answer();
    assert_eq!(rebound.status(), 403);
}

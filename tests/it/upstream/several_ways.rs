//! Several upstreams, each of which is reached in its own way: by its proxy, with its key, its headers, its
//! certificates and its members, and with none of another one's.

use ollama_openai_proxy::observe::redact::Secret;
use ollama_openai_proxy::upstream::proxy;
use ollama_openai_proxy::upstream::{ServerSettings, TlsSettings};

use crate::support::fleet;
use crate::support::forward_proxy::ForwardProxy;
use crate::support::tls_server::{ISSUED, TlsServer, path_of, server_config};
use crate::support::*;

/// An upstream of the configuration, with a key that has its name in it.
fn server(name: &str, base_url: &str) -> ServerSettings {
    let api_key = Some(Secret::new(format!("key-of-{name}")));
    ServerSettings { api_key, ..fleet::server(name, base_url) }
}

fn by(url: &str) -> Option<proxy::Proxy> {
    Some(proxy::Proxy::configured(url).expect("a proxy's URL"))
}

/// A proxy in front of these upstreams, which lists the models of all of them.
fn in_front_of(servers: Vec<ServerSettings>) -> Proxy {
    let proxy = fleet::several(servers, |config| config.retry.max_retries = 0);
    assert!(!proxy.names().is_empty());
    proxy
}

/// The request that `name` gets for a chat, and for one that is passed on.
fn sent(proxy: &Proxy, upstream: &Upstream, name: &str) -> [Recorded; 2] {
    ["/api/chat", "/v1/chat/completions"].map(|path| {
        upstream.script(vec![answer("ok")]);
        let body = json!({"model": format!("{name}/m"), "stream": false,
            "messages": [{"role": "user", "content": "Hi"}]});
        let told = proxy.post(path, &body);
        assert_eq!(told.status(), 200, "{name} {path}: {}", told.body);
        upstream.request()
    })
}

#[test]
fn proxies_with_and_without_a_password_and_none_stand_side_by_side() {
    let [with, without, direct, tunnelled] = [(); 4].map(|()| Upstream::start());
    let tls = TlsServer::in_front_of(tunnelled.addr(), server_config(ISSUED));
    let forward = ForwardProxy::http(tls.addr());
    let proxy = in_front_of(vec![
        ServerSettings {
            proxy: by(&format!("http://me:s3cret%21@{}", with.addr())),
            ..server("with", "http://one.test:8000/v1")
        },
        ServerSettings {
            proxy: by(&format!("http://{}", without.addr())),
            ..server("without", "http://two.test/v1")
        },
        server("direct", &direct.base_url()),
        ServerSettings {
            proxy: by(&format!("http://you:w0rd@{}", forward.addr())),
            tls: TlsSettings { ca_file: Some(path_of("authority.pem")), ..TlsSettings::default() },
            ..server("tunnelled", &format!("https://localhost:{}/v1", tls.addr().port()))
        },
    ]);
    let authorization = "proxy-authorization";
    for request in sent(&proxy, &with, "with") {
        assert_eq!(request.path, "http://one.test:8000/v1/chat/completions");
        // base64 of `me:s3cret!`.
        assert_eq!(request.header(authorization), Some("Basic bWU6czNjcmV0IQ=="));
        assert_eq!(request.header("authorization"), Some("Bearer key-of-with"));
    }
    for request in sent(&proxy, &without, "without") {
        assert_eq!(request.path, "http://two.test/v1/chat/completions");
        assert_eq!(request.header(authorization), None);
    }
    for request in sent(&proxy, &direct, "direct") {
        assert_eq!(request.path, "/v1/chat/completions");
        assert_eq!(request.header(authorization), None);
    }
    for request in sent(&proxy, &tunnelled, "tunnelled") {
        assert_eq!(request.path, "/v1/chat/completions");
        assert_eq!(request.header(authorization), None, "it is the proxy's");
        assert_eq!(request.header("authorization"), Some("Bearer key-of-tunnelled"));
    }
    let head = forward.head();
    assert!(head.starts_with(&format!("CONNECT localhost:{} ", tls.addr().port())), "{head}");
    // base64 of `you:w0rd`.
    assert!(head.contains("Proxy-Authorization: Basic eW91OncwcmQ=\r\n"), "{head}");
}

#[test]
fn each_upstream_gets_its_own_headers_members_and_keys_and_no_other_s() {
    let [plain, rich, passing] = [(); 3].map(|()| Upstream::start());
    let extra_body = json!({"provider": {"sort": "price"}});
    let proxy = in_front_of(vec![
        server("plain", &plain.base_url()),
        ServerSettings {
            headers: vec![("X-Team".to_owned(), Secret::new("ml"))],
            extra_body: extra_body.as_object().cloned().expect("an object"),
            ..server("rich", &rich.base_url())
        },
        ServerSettings { pass_client_key: true, ..server("passing", &passing.base_url()) },
    ]);
    for request in sent(&proxy, &plain, "plain") {
        assert_eq!(request.header("authorization"), Some("Bearer key-of-plain"));
        assert!(request.header("x-team").is_none() && !request.body.contains("provider"));
    }
    for request in sent(&proxy, &rich, "rich") {
        assert_eq!(request.header("authorization"), Some("Bearer key-of-rich"));
        assert_eq!(request.header("x-team"), Some("ml"));
        assert_eq!(request.json()["provider"], extra_body["provider"]);
    }
    for (name, upstream, expected) in
        [("plain", &plain, "Bearer key-of-plain"), ("passing", &passing, "Bearer sk-of-the-client")]
    {
        upstream.script(vec![answer("ok")]);
        let lines = "Authorization: Bearer sk-of-the-client\r\n";
        let body = chat_whole("Hi").replace("\"m\"", &format!("\"{name}/m\""));
        let told = proxy.client().with("POST", "/api/chat", lines, body).answer();
        assert_eq!(told.status(), 200, "{}", told.body);
        assert_eq!(upstream.request().header("authorization"), Some(expected));
    }
}

#[test]
fn a_certificate_that_is_trusted_for_one_upstream_is_not_for_another() {
    let upstream = Upstream::start();
    let tls = TlsServer::in_front_of(upstream.addr(), server_config(ISSUED));
    let base = format!("https://localhost:{}/v1", tls.addr().port());
    let trusting =
        TlsSettings { ca_file: Some(path_of("authority.pem")), ..TlsSettings::default() };
    let proxy = in_front_of(vec![
        ServerSettings { tls: trusting, ..server("trusting", &base) },
        ServerSettings { list: Some(vec!["m".to_owned()]), ..server("doubting", &base) },
    ]);
    sent(&proxy, &upstream, "trusting");
    let body = chat_whole("Hi").replace("\"m\"", "\"doubting/m\"");
    let told = proxy.ask("/api/chat", body);
    assert!(told.status() == 502 && told.body.contains("set ca_file"), "{}", told.body);
    assert!(upstream.is_idle());
}

//! Several scripted upstreams behind one proxy.

use ollama_openai_proxy::config::Config;
use ollama_openai_proxy::models::configured::{ConfiguredModel, Strategy, Target};
use ollama_openai_proxy::models::virtual_model::VirtualModel;
use ollama_openai_proxy::upstream::ServerSettings;
use ollama_openai_proxy::upstream::base_url::BaseUrl;
use std::sync::Arc;
use std::time::SystemTime;

use super::proxy::Proxy;
use super::upstream::{self, Recorded, Step, Upstream};

/// Upstreams named `a`, `b`, `c` ..., and the proxy in front of them.
pub struct Fleet {
    pub upstreams: Vec<Upstream>,
    pub proxy: Proxy,
}

/// An upstream of the configuration.
pub fn server(name: &str, base_url: &str) -> ServerSettings {
    let base_url = BaseUrl::parse(base_url).expect("a base URL");
    ServerSettings { name: name.to_owned(), base_url, ..ServerSettings::default() }
}

/// A proxy in front of these upstreams.
pub fn several(servers: Vec<ServerSettings>, change: impl FnOnce(&mut Config)) -> Proxy {
    Proxy::at("http://127.0.0.1:9/v1", |config| {
        config.upstreams = servers;
        change(config);
    })
}

/// A model of the configuration: `targets` are `upstream/id`.
pub fn configured(name: &str, targets: &[&str], strategy: Strategy) -> ConfiguredModel {
    let target = |text: &&str| {
        let (upstream, id) = text.split_once('/').expect("upstream/id");
        Target { upstream: Some(upstream.to_owned()), id: id.to_owned() }
    };
    ConfiguredModel {
        model: Arc::new(VirtualModel::alias(name, targets[0], SystemTime::UNIX_EPOCH)),
        targets: targets.iter().map(target).collect(),
        strategy,
        context_length: None,
        capabilities: None,
        is_hidden: false,
    }
}

/// A model list of these ids.
pub fn list_of(ids: &[&str]) -> String {
    let entry = |id: &&str| format!(r#"{{"id":"{id}","object":"model","owned_by":"scripted"}}"#);
    format!(
        r#"{{"object":"list","data":[{}]}}"#,
        ids.iter().map(entry).collect::<Vec<_>>().join(",")
    )
}

/// Upstreams that list these ids, and whose answers are their names.
pub fn fleet(lists: &[&[&str]], change: impl FnOnce(&mut Config)) -> Fleet {
    let upstreams: Vec<Upstream> = lists.iter().map(|_| Upstream::start()).collect();
    let mut servers = Vec::new();
    for (at, (upstream, ids)) in upstreams.iter().zip(lists).enumerate() {
        let name = Fleet::name(at);
        upstream.list(&list_of(ids));
        upstream.judge({
            let name = name.clone();
            move |request| (!request.path.ends_with("/models")).then(|| says(&name, request))
        });
        servers.push(server(&name, &upstream.base_url()));
    }
    Fleet { upstreams, proxy: several(servers, change) }
}

/// The answer to a request in its own form, with this text.
pub fn says(text: &str, request: &Recorded) -> Vec<Step> {
    if request.path.ends_with("/embeddings") {
        return vec![upstream::json(
            r#"{"data":[{"index":0,"embedding":[0.5]}],"usage":{"prompt_tokens":1}}"#,
        )];
    }
    match request.body.contains("\"stream\":true") {
        true => upstream::stream(&[text]),
        false => vec![upstream::answer(text)],
    }
}

impl Fleet {
    fn name(at: usize) -> String {
        char::from(b'a' + u8::try_from(at).expect("few upstreams")).to_string()
    }

    /// Which upstreams were asked since the last call, by their letters.
    pub fn asked(&self) -> String {
        let mut names = String::new();
        for (at, upstream) in self.upstreams.iter().enumerate() {
            while !upstream.is_idle() {
                upstream.request();
                names += &Self::name(at);
            }
        }
        names
    }

    /// The text that a chat with a model gets.
    pub fn chat(&self, model: &str) -> String {
        self.say(model, "Hi")
    }

    /// The same for this first message.
    pub fn say(&self, model: &str, text: &str) -> String {
        let body = serde_json::json!({"model": model, "stream": false,
            "messages": [{"role": "user", "content": text}]});
        let answer = self.proxy.post("/api/chat", &body);
        match answer.status() {
            200 => answer.json()["message"]["content"].as_str().expect("a text").to_owned(),
            status => format!("{status} {}", answer.error()),
        }
    }
}

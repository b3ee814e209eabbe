//! A scripted Ollama: its lists, its version and its root answer by themselves, all else takes a script.

use std::ops::Deref;
use std::sync::Arc;
use std::time::SystemTime;

use ollama_openai_proxy::backends::profiles;
use ollama_openai_proxy::config::Config;
use ollama_openai_proxy::models::configured::{ConfiguredModel, Strategy, Target};
use ollama_openai_proxy::models::virtual_model::VirtualModel;
use ollama_openai_proxy::upstream::ServerSettings;
use ollama_openai_proxy::upstream::base_url::BaseUrl;

use super::proxy::Proxy;
use super::upstream::{Step, Upstream, json, typed};

/// Its list below `/v1`.
pub const LIST: &str = r#"{"object":"list","data":[
    {"id":"llama3.2:latest","object":"model","created":1755676800,"owned_by":"library"},
    {"id":"qwen/qwen3:8b","object":"model","created":1755676801,"owned_by":"qwen"}]}"#;

/// The entries of its `/api/tags`, as no other program would write them.
pub const TAGS: [&str; 2] = [
    r#"{"name":"llama3.2:latest","model":"llama3.2:latest","modified_at":"2026-08-20T09:00:00.5+02:00","size":4900000000,"digest":"3f5c0d1a2b4c3f5c0d1a2b4c3f5c0d1a2b4c3f5c0d1a2b4c3f5c0d1a2b4c0001","details":{"parent_model":"","format":"gguf","family":"llama","families":null,"parameter_size":"8.0B","quantization_level":"Q4_K_M","context_length":131072},"capabilities":["completion","tools"],"new":[1, 2]}"#,
    r#"{"name":"qwen/qwen3:8b","model":"qwen/qwen3:8b","modified_at":"2026-08-19T09:00:00.5+02:00","size":5200000000,"digest":"3f5c0d1a2b4c3f5c0d1a2b4c3f5c0d1a2b4c3f5c0d1a2b4c3f5c0d1a2b4c0002","details":{"parent_model":"","format":"gguf","family":"qwen3","families":["qwen3"],"parameter_size":"8.2B","quantization_level":"Q4_K_M"},"capabilities":["completion","thinking"]}"#,
];

/// The scripted server.
pub struct Ollama(Upstream);

impl Deref for Ollama {
    type Target = Upstream;

    fn deref(&self) -> &Upstream {
        &self.0
    }
}

impl Ollama {
    /// With two models.
    pub fn start() -> Self {
        let server = Upstream::start();
        server.list(LIST);
        server.side("/api/version", r#"{"version":"0.40.16"}"#);
        server.side("/", "Ollama is running");
        server.side("/api/tags", &format!(r#"{{"models":[{}]}}"#, TAGS.join(",")));
        server.side("/api/ps", r#"{"models":[]}"#);
        Self(server)
    }

    /// A proxy in front of it that knows what it is.
    pub fn proxy(&self) -> Proxy {
        Proxy::with(self, is_ollama)
    }
}

/// Says in the configuration that the upstream is an Ollama.
pub fn is_ollama(config: &mut Config) {
    config.upstream.profile = profiles::find_by_name("ollama");
}

/// The head of a chunked stream of lines.
pub fn lines_head() -> Step {
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\n\
                Transfer-Encoding: chunked\r\n\r\n";
    Step::Send(head.into())
}

/// A whole object as Ollama sends it.
pub fn object(body: &str) -> Vec<Step> {
    vec![typed(200, "application/json; charset=utf-8", &[], body)]
}

/// An error as Ollama sends it.
pub fn error(status: u16, text: &str) -> Vec<Step> {
    let body = serde_json::json!({ "error": text }).to_string();
    vec![typed(status, "application/json; charset=utf-8", &[], &body)]
}

/// An empty success.
pub fn empty() -> Vec<Step> {
    vec![Step::Send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_vec())]
}

/// A whole answer of OpenAI's API.
pub fn completion(text: &str) -> Vec<Step> {
    let text = serde_json::Value::from(text);
    vec![json(&format!(
        r#"{{"choices":[{{"index":0,"message":{{"role":"assistant","content":{text}}},"finish_reason":"stop"}}],"usage":{{"prompt_tokens":5,"completion_tokens":2,"total_tokens":7}}}}"#
    ))]
}

/// A server of the configuration, by its name and its address.
pub fn server(name: &str, upstream: &Upstream) -> ServerSettings {
    let base_url = BaseUrl::parse(&upstream.base_url()).expect("a base URL");
    ServerSettings { name: name.to_owned(), base_url, ..ServerSettings::default() }
}

/// The same for an Ollama.
pub fn ollama_server(name: &str, ollama: &Ollama) -> ServerSettings {
    ServerSettings { profile: profiles::find_by_name("ollama"), ..server(name, ollama) }
}

/// A proxy in front of these servers and with these models, which asks all of them once.
pub fn several(servers: Vec<ServerSettings>, models: Vec<ConfiguredModel>) -> Proxy {
    Proxy::at("http://127.0.0.1:9/v1", |config| {
        config.upstreams = servers;
        config.models = models;
        config.retry.max_retries = 0;
    })
}

/// A model of the configuration: its name, and what it uses, as `upstream/id`.
pub fn configured(
    name: &str,
    uses: &[&str],
    change: impl FnOnce(&mut VirtualModel),
) -> ConfiguredModel {
    let targets: Vec<Target> = uses
        .iter()
        .map(|target| {
            let (upstream, id) = target.split_once('/').expect("an upstream");
            Target { upstream: Some(upstream.to_owned()), id: id.to_owned() }
        })
        .collect();
    let mut model = VirtualModel::alias(name, uses[0], SystemTime::UNIX_EPOCH);
    change(&mut model);
    ConfiguredModel {
        model: Arc::new(model),
        targets,
        strategy: Strategy::Order,
        context_length: None,
        capabilities: None,
        is_hidden: false,
    }
}

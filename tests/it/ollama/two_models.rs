//! A model list for shape tests: one model with full metadata, one without any, and a created one.

use crate::support::shape::{items, shape};
use crate::support::*;

/// A model with full metadata, and one without any.
pub(super) const LIST: &str = r#"{"data":[
    {"id":"full:8b","created":1700000000,"owned_by":"scripted","quantization":"Q4_K_M","meta":
        {"n_ctx":8192,"n_params":8000000000,"size":4900000000,"n_embd":4096}},
    {"id":"bare"}]}"#;

/// The shape of `details` in every response.
pub(super) const DETAILS: &str = "parent_model:\"\",format:text,family:text,families:[text],\
                       parameter_size:text,quantization_level:text";

/// The same of a model whose size and quantization nobody knows.
pub(super) fn unknown_details() -> String {
    let details = DETAILS.replace("parameter_size:text", "parameter_size:\"\"");
    details.replace("quantization_level:text", "quantization_level:\"\"")
}

pub(super) fn proxy() -> (Upstream, Proxy) {
    let (upstream, proxy) = pair();
    upstream.list(LIST);
    (upstream, proxy)
}

pub(super) fn post(proxy: &Proxy, path: &str, body: &Value) -> Answer {
    let answer = proxy.post(path, body);
    assert_eq!(answer.status(), 200, "{path} {body}: {}", answer.body);
    answer
}

/// Creates a model with every member.
pub(super) fn make(proxy: &Proxy) {
    let body = json!({"model": "made", "from": "full:8b", "system": "Be brief.", "license": "MIT",
        "template": "{{ .Prompt }}", "parameters": {"temperature": 0.7},
        "messages": [{"role": "user", "content": "Hi"}], "stream": false});
    post(proxy, "/api/create", &body);
}

/// The entry of a model in a list.
pub(super) fn entry(proxy: &Proxy, path: &str, name: &str) -> String {
    let answer = proxy.fetch(path);
    assert_eq!(answer.head.header("content-type"), Some("application/json; charset=utf-8"));
    assert_eq!(shape(&answer.body).find("{models:["), Some(0), "{}", answer.body);
    let begins = format!(r#"{{"name":"{name}","model":"{name}","#);
    let entry = items(&answer.body, "models").into_iter().find(|item| item.starts_with(&begins));
    entry.unwrap_or_else(|| panic!("{name}: {}", answer.body))
}

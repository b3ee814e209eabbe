//! What the routes that list and inform say of a model (ollama-api.md 11), over real sockets.
//!
//! Members are compared as they stand in the text: their order, their types, and which of them are
//! left out. A shape (`support/shape.rs`) is a text without its values.
//!
//! | row | held by |
//! | --- | --- |
//! | 11.1 text, status and type of `/` | `routes.rs`: `the_root_says_what_monitors_look_for`; `protocol.rs`: `unknown_paths_and_methods_are_answered_as_ollama_does` |
//! | 11.1, 11.2, 11.4 HEAD | `protocol.rs`: `head_has_the_head_of_get_and_no_body` |
//! | 11.2 version, numeric, at least 0.6.4 | `routes.rs`: `the_version_is_ollama_s_and_ours_is_in_a_header`; `rows_18_12.rs`: `the_root_and_the_version_are_as_everybody_expects` |
//! | 11.3 `/api/status` | `account.rs`: `every_route_answers_as_a_server_without_an_account` |
//! | 11.4 newest first, `name` and `model` alike with a tag, `size` > 0, `digest` of 64 hex digits, nothing empty in `details` | `routes.rs`: `tags_have_everything_that_clients_insist_on` |
//! | 11.4 an empty list | `routes.rs`: `an_upstream_without_models_has_an_empty_list` |
//! | 11.4 stable digests | `rows_18_12.rs`: `digests_differ_are_stable_and_follow_the_capabilities` |
//! | 11.4 members in order, the lengths only where known, no `remote_model`, no `remote_host` | here: `an_entry_of_the_list_has_ollama_s_members_in_order`; values in `golden/models/*/tags.json` |
//! | 11.5 an empty list, the latest `expires_at` first, `size_vram` = `size`, until unloaded | `routes.rs`: `ps_shows_what_was_used_until_it_is_unloaded` |
//! | 11.5 members in order, `parent_model` empty, no lengths in `details`, `context_length` always | here: `a_running_model_has_ollama_s_members_in_order` |
//! | 11.5 a model in use, or loading | here: `a_model_in_use_is_listed`, `a_model_that_is_loading_or_to_be_unloaded_is_listed_while_it_is_used` |
//! | 11.5 `context_length` is the window that was asked for | `routes.rs`: `ps_shows_the_window_that_the_last_request_asked_for` |
//! | 11.6 `name` for an empty `model`; `options` in the modelfile; `general.basename` | `routes.rs`: `show_understands_every_spelling_of_a_name` |
//! | 11.6 `system` replaces, `template` and `verbose` change nothing, Copilot's agent | here: `what_is_asked_of_show_changes_what_it_should` |
//! | 11.6 members in order, those without a value left out, `model_info` with sorted keys | here: `a_shown_model_has_ollama_s_members_in_order`; values in `golden/models/*/show.json` and `golden/create/*/show.json` |
//! | 11.6 `options` in their place in the modelfile, before the model's own; `requires` last | here: `options_of_a_show_stand_in_the_modelfile_and_requires_comes_last` |
//! | 11.6 lines of the modelfile | `manage.rs`: `a_made_model_is_listed_and_shown_with_the_details_of_its_base` |
//! | 11.6 columns and literals of `parameters` | `src/translate/modelfile.rs`: `parameters_stand_in_columns_with_go_s_literals` |
//! | 11.6 several licences | `golden/create/everything` |
//! | 11.6 `capabilities`: `embedding` instead of `completion` | `rows_18_12.rs`: `capabilities_are_always_there_and_of_the_known_ones` |
//!
//! A proxy has nothing to tell as `remote_model`, `remote_host`, `projector_info` or `tensors`: the
//! shapes say that they are left out. `families` is `null` nowhere, as the law advises.

use crate::support::proxy::Proxy;
use crate::support::raw::{Answer, chat};
use crate::support::shape::{items, shape};
use crate::support::upstream::{Step, Upstream, delta, ending, status, stream_head};
use crossbeam_channel::bounded;
use serde_json::{Value, json};

/// A model of which everything is known, and one of which nothing is.
const LIST: &str = r#"{"data":[
    {"id":"full:8b","created":1700000000,"owned_by":"scripted","quantization":"Q4_K_M","meta":
        {"n_ctx":8192,"n_params":8000000000,"size":4900000000,"n_embd":4096}},
    {"id":"bare"}]}"#;

/// `details` as they are everywhere.
const DETAILS: &str = "parent_model:\"\",format:text,family:text,families:[text],\
                       parameter_size:text,quantization_level:text";

fn proxy() -> (Upstream, Proxy) {
    let upstream = Upstream::start();
    upstream.list(LIST);
    let proxy = Proxy::start(&upstream);
    (upstream, proxy)
}

fn post(proxy: &Proxy, path: &str, body: &Value) -> Answer {
    let answer = proxy.client().post(path, body.to_string()).answer();
    assert_eq!(answer.status(), 200, "{path} {body}: {}", answer.body);
    answer
}

/// Makes a model with everything that one can have.
fn make(proxy: &Proxy) {
    let body = json!({"model": "made", "from": "full:8b", "system": "Be brief.", "license": "MIT",
        "template": "{{ .Prompt }}", "parameters": {"temperature": 0.7},
        "messages": [{"role": "user", "content": "Hi"}], "stream": false});
    post(proxy, "/api/create", &body);
}

/// The entry of a model in a list.
fn entry(proxy: &Proxy, path: &str, name: &str) -> String {
    let answer = proxy.client().get(path).answer();
    assert_eq!(answer.head.header("content-type"), Some("application/json; charset=utf-8"));
    assert_eq!(shape(&answer.body).find("{models:["), Some(0), "{}", answer.body);
    let begins = format!(r#"{{"name":"{name}","model":"{name}","#);
    let entry = items(&answer.body, "models").into_iter().find(|item| item.starts_with(&begins));
    entry.unwrap_or_else(|| panic!("{name}: {}", answer.body))
}

#[test]
fn an_entry_of_the_list_has_ollama_s_members_in_order() {
    let (_upstream, proxy) = proxy();
    make(&proxy);
    let tag = |details: &str| {
        format!(
            "{{name:text,model:text,modified_at:time,size:int,digest:digest,details:{{{details}}},\
             capabilities:[text]}}"
        )
    };
    let check = |name: &str, details: &str| {
        assert_eq!(shape(&entry(&proxy, "/api/tags", name)), tag(details), "{name}");
    };
    check("bare:latest", DETAILS);
    check("full:8b", &format!("{DETAILS},context_length:int,embedding_length:int"));
    let made = DETAILS.replacen("\"\"", "text", 1);
    check("made:latest", &format!("{made},context_length:int,embedding_length:int"));
    let full = entry(&proxy, "/api/tags", "full:8b");
    assert!(full.contains(
        r#""details":{"parent_model":"","format":"gguf","family":"full","families":["full"],"parameter_size":"8.0B","quantization_level":"Q4_K_M","context_length":8192,"embedding_length":4096}"#
    ), "{full}");
    assert!(full.contains(r#","size":4900000000,"#), "{full}");
}

#[test]
fn a_running_model_has_ollama_s_members_in_order() {
    let (_upstream, proxy) = proxy();
    make(&proxy);
    for name in ["bare", "full:8b", "made"] {
        post(&proxy, "/api/generate", &json!({"model": name}));
    }
    let process = format!(
        "{{name:text,model:text,size:int,digest:digest,details:{{{DETAILS}}},expires_at:time,\
         size_vram:int,context_length:int}}"
    );
    for name in ["bare:latest", "full:8b", "made:latest"] {
        assert_eq!(shape(&entry(&proxy, "/api/ps", name)), process, "{name}");
    }
}

#[test]
fn a_model_in_use_is_listed() {
    let (upstream, proxy) = proxy();
    let (go_on, told) = bounded(0);
    let mut steps = vec![stream_head(), delta("one"), Step::Wait(told)];
    steps.extend(ending());
    upstream.script(steps);
    let mut client = proxy.client();
    client.post("/api/chat", chat("Hi").replace("\"m\"", "\"bare\"")).head();
    client.frame();
    entry(&proxy, "/api/ps", "bare:latest");
    drop(go_on);
    while client.frame().is_some() {}
    entry(&proxy, "/api/ps", "bare:latest");
}

#[test]
fn a_model_that_is_loading_or_to_be_unloaded_is_listed_while_it_is_used() {
    let (upstream, proxy) = proxy();
    let names = || {
        let list = proxy.client().get("/api/ps").answer().json();
        list["models"].as_array().expect("a list").iter().map(|it| it["name"].to_string()).collect()
    };
    for keep_alive in [json!(0), json!("5m")] {
        let (go_on, told) = bounded(0);
        let mut steps = vec![Step::Wait(told), stream_head(), delta("one")];
        steps.extend(ending());
        upstream.script(steps);
        let mut client = proxy.client();
        let message = json!({"role": "user", "content": "Hi"});
        let body = json!({"model": "bare", "keep_alive": keep_alive, "messages": [message]});
        client.post("/api/chat", body.to_string());
        // Once the upstream was asked, the model is in use, though not a byte has come.
        upstream.request();
        let loading: Vec<String> = names();
        assert_eq!(loading, ["\"bare:latest\""], "{keep_alive}");
        drop(go_on);
        client.head();
        while client.frame().is_some() {}
        let after: Vec<String> = names();
        assert_eq!(after.len(), usize::from(keep_alive != 0), "{keep_alive}");
    }
    // What the upstream does not answer for was never there.
    upstream.script(vec![status(
        404,
        &[],
        r#"{"error":{"message":"no","code":"model_not_found"}}"#,
    )]);
    let body = chat("Hi").replace("\"m\"", "\"full:8b\"");
    assert_eq!(proxy.client().post("/api/chat", body).answer().status(), 404);
    let after: Vec<String> = names();
    assert_eq!(after, ["\"bare:latest\""]);
}

#[test]
fn options_of_a_show_stand_in_the_modelfile_and_requires_comes_last() {
    let (_upstream, proxy) = proxy();
    let made = json!({"model": "made", "from": "bare", "license": "MIT", "requires": "0.14.0",
        "parameters": {"temperature": 0.7, "seed": 1},
        "messages": [{"role": "user", "content": "Hi"}], "stream": false});
    post(&proxy, "/api/create", &made);
    let body = json!({"model": "made", "options": {"temperature": 0, "top_k": 3}});
    let answer = post(&proxy, "/api/show", &body);
    let shown = answer.json();
    let modelfile = shown["modelfile"].as_str().expect("a text");
    let (_, lines) = modelfile.split_once("\n\n").expect("a comment first");
    assert_eq!(
        lines,
        "FROM bare:latest\nREQUIRES 0.14.0\nPARAMETER seed 1\nPARAMETER temperature 0\n\
         PARAMETER top_k 3\nLICENSE MIT\nMESSAGE user Hi\n"
    );
    let parameters = shown["parameters"].as_str().expect("a text");
    assert!(parameters.ends_with(" 0.7") && !parameters.contains("top_k"), "the model's own");
    assert!(answer.body.ends_with(r#","requires":"0.14.0"}"#), "{}", answer.body);
    let without = post(&proxy, "/api/show", &json!({"model": "bare"})).json();
    assert!(without.get("requires").is_none(), "an empty one is left out");
}

#[test]
fn a_shown_model_has_ollama_s_members_in_order() {
    let (_upstream, proxy) = proxy();
    make(&proxy);
    let show = |body: Value| shape(&post(&proxy, "/api/show", &body).body);
    let info = "general.architecture:text,general.basename:text";
    assert_eq!(
        show(json!({"model": "full:8b"})),
        format!(
            "{{modelfile:text,template:text,details:{{{DETAILS}}},model_info:{{\
             full.context_length:int,full.embedding_length:int,{info},\
             general.parameter_count:int}},capabilities:[text],modified_at:time}}"
        )
    );
    assert_eq!(
        show(json!({"model": "bare", "system": "Be brief."})),
        format!(
            "{{modelfile:text,template:text,system:text,details:{{{DETAILS}}},model_info:{{\
             bare.context_length:int,{info}}},capabilities:[text],modified_at:time}}"
        )
    );
    let details = DETAILS.replacen("\"\"", "text", 1);
    assert_eq!(
        show(json!({"model": "made"})),
        format!(
            "{{license:text,modelfile:text,parameters:text,template:text,system:text,\
             details:{{{details}}},messages:[{{role:text,content:text}}],model_info:{{\
             full.context_length:int,full.embedding_length:int,{info},\
             general.parameter_count:int}},capabilities:[text],modified_at:time}}"
        )
    );
}

#[test]
fn what_is_asked_of_show_changes_what_it_should() {
    let (_upstream, proxy) = proxy();
    make(&proxy);
    let show = |body: Value| post(&proxy, "/api/show", &body).body;
    for name in ["bare", "made"] {
        let plain = show(json!({"model": name}));
        for same in [
            json!({"model": name, "template": "{{ .Other }}"}),
            json!({"model": name, "verbose": true}),
            json!({"model": name, "system": "", "options": {}}),
            json!({"model": "", "name": name}),
            json!({"model": name, "name": "nobody"}),
        ] {
            assert_eq!(show(same.clone()), plain, "{same}");
        }
        let asked: Value =
            serde_json::from_str(&show(json!({"model": name, "system": "Be loud."})))
                .expect("JSON");
        assert_eq!(asked["system"], "Be loud.");
        let modelfile = asked["modelfile"].as_str().expect("a text");
        assert!(modelfile.contains("\nSYSTEM ") && modelfile.contains("Be loud."), "{modelfile}");
        assert!(!modelfile.contains("Be brief."), "{modelfile}");
    }
    let body = json!({"model": "BARE:latest"}).to_string();
    let head = "POST /api/show HTTP/1.1\r\nHost: localhost\r\nUser-Agent: GitHubCopilotChat/0.30";
    let request = format!("{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let shown = proxy.client().send(request).answer().json();
    assert_eq!(shown["model_info"]["general.basename"], "BARE:latest");
}

//! `/api/show`: members in order, capabilities, and which request members change the response.
//!
//! Members are compared as they stand in the text; a shape (`support/shape.rs`) is a text without its
//! values.

use super::two_models::{DETAILS, make, post, proxy, unknown_details};
use crate::support::shape::shape;
use crate::support::*;

#[test]
fn capabilities_are_always_there_and_of_the_known_ones() {
    const KNOWN: &[&str] =
        &["completion", "tools", "vision", "thinking", "embedding", "insert", "audio"];
    let proxy = Proxy::start(&Upstream::start());
    for name in ["m", "tagged:8b", "text-embed"] {
        let shown = proxy.show(name);
        let told: Vec<&str> = shown["capabilities"]
            .as_array()
            .expect("a list")
            .iter()
            .filter_map(Value::as_str)
            .collect();
        assert!(!told.is_empty() && told.iter().all(|one| KNOWN.contains(one)), "{told:?}");
        let is_embedding = name == "text-embed";
        assert_eq!(told.contains(&"embedding"), is_embedding, "{name}: {told:?}");
        assert_eq!(told.contains(&"completion"), !is_embedding, "{name}: {told:?}");
    }
}

#[test]
fn model_info_has_the_three_keys() {
    let proxy = Proxy::start(&Upstream::start());
    for (name, length) in [("m", 32_768), ("m:latest", 32_768), ("tagged:8b", 8192)] {
        let info = proxy.show(name)["model_info"].clone();
        let architecture = info["general.architecture"].as_str().expect("a string");
        assert_eq!(info[format!("{architecture}.context_length")], length);
        assert_eq!(info["general.basename"], name);
    }
}

#[test]
fn the_template_names_tools() {
    let shown = Proxy::start(&Upstream::start()).show("m");
    assert!(shown["template"].as_str().is_some_and(|text| text.contains("tools")), "{shown}");
}

#[test]
fn show_understands_every_spelling_of_a_name() {
    let proxy = Proxy::start(&Upstream::start());
    for body in [
        json!({"model": "m"}),
        json!({"model": "m:latest"}),
        json!({"model": "M:LATEST"}),
        json!({"name": "m"}),
        json!({"model": "", "name": "m", "system": "", "template": "", "options": null}),
        json!({"model": " m "}),
    ] {
        let answer = proxy.post("/api/show", &body);
        assert_eq!(answer.status(), 200, "{body}");
        let show = answer.json();
        let arch = show["model_info"]["general.architecture"].as_str().expect("a family");
        assert!(show["model_info"][format!("{arch}.context_length")].is_u64());
        assert_eq!(show["capabilities"], json!(["completion", "tools"]));
        for name in ["template", "modelfile", "modified_at"] {
            assert_ne!(show[name].as_str().expect(name), "", "{name}");
        }
    }
    let options = json!({"model": "m", "options": {"num_ctx": 8192, "stop": ["a", "b c "]}});
    let modelfile = proxy.post("/api/show", &options).json()["modelfile"].clone();
    let expected = "PARAMETER num_ctx 8192\nPARAMETER stop a\nPARAMETER stop \"b c \"\n";
    assert!(modelfile.as_str().expect("a text").ends_with(expected), "{modelfile}");
    let named = proxy.post("/api/show", &json!({"model": "m:latest"})).json();
    assert_eq!(named["model_info"]["general.basename"], "m:latest");
}

#[test]
fn show_of_an_unknown_model_is_not_found() {
    let proxy = Proxy::start(&Upstream::start());
    proxy
        .post("/api/show", &json!({"model": "nope"}))
        .assert_error(404, "model 'nope:latest' not found");
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
    assert!(without.get("requires").is_none(), "an empty member is omitted");
}

#[test]
fn a_shown_model_has_ollama_s_members_in_order() {
    let (_upstream, proxy) = proxy();
    make(&proxy);
    let show = |body: Value| shape(&post(&proxy, "/api/show", &body).body);
    let info = "general.architecture:text,general.basename:text";
    let bare = unknown_details();
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
            "{{modelfile:text,template:text,system:text,details:{{{bare}}},model_info:{{\
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
    let copilot = "User-Agent: GitHubCopilotChat/0.30\r\n";
    let shown = proxy.client().with("POST", "/api/show", copilot, body).answer().json();
    assert_eq!(shown["model_info"]["general.basename"], "BARE:latest");
}

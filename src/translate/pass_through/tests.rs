//! What is changed in a body that is passed on, and that nothing else is.

use std::time::SystemTime;

use serde_json::json;

use super::*;
use crate::backends::profiles;
use crate::backends::profiles::GENERIC;

fn named(text: &str, id: &str) -> String {
    let mut body = PassBody::parse(text, Endpoint::Chat).expect("a body");
    body.set_model(id);
    String::from_utf8(body.to_bytes().into_owned()).expect("UTF-8")
}

#[test]
fn a_body_whose_model_has_the_same_name_is_the_same_bytes() {
    let text = "\n{ \"x\":1.50,\"model\" : \"\\u006d\", \"x\":[ ] } trailing";
    let mut body = PassBody::parse(text, Endpoint::Chat).expect("a body");
    assert_eq!(body.requested_model(), Some("m"));
    body.set_model("m");
    assert!(body.is_unmodified());
    assert!(matches!(body.to_bytes(), Cow::Borrowed(same) if std::ptr::eq(same, text.as_bytes())));
}

#[test]
fn another_name_is_put_in_the_place_of_the_old_one_and_nothing_else_moves() {
    let check = |text: &str, expected: &str| assert_eq!(named(text, "org/\"m\""), expected);
    check(
        "{ \"b\" : 1.50 , \"model\": \"m:latest\" ,\n \"a\":\"\\u00e9\" } ",
        "{ \"b\" : 1.50 , \"model\": \"org/\\\"m\\\"\" ,\n \"a\":\"\\u00e9\" } ",
    );
    check(r#"{"Model": "m","a": 1}"#, r#"{"model":"org/\"m\"","a":1}"#);
    check(r#"{"model":"a","b":1,"model":"m"}"#, r#"{"b":1,"model":"org/\"m\""}"#);
}

#[test]
fn what_is_no_name_is_refused_in_go_s_words() {
    let check = |text: &str, expected: &str| {
        let error = PassBody::parse(text, Endpoint::Completions).err().expect(text);
        assert_eq!(error.message(), expected, "{text}");
        assert_eq!(error.status(), Some(400));
    };
    let wrong = |kind: &str| {
        format!(
            "json: cannot unmarshal {kind} into Go struct field CompletionRequest.model of type string"
        )
    };
    check(r#"{"model":5}"#, &wrong("number"));
    check(r#"{"MODEL":[]}"#, &wrong("array"));
    check(r#"{"model":{}}"#, &wrong("object"));
    check(r#"{"model":true}"#, &wrong("bool"));
    check("{bad", "invalid character 'b' looking for beginning of object key string");
    check(r#"{"model":"x""#, "unexpected EOF");
    for text in ["null", "{}", r#"{"model":null}"#] {
        assert_eq!(
            PassBody::parse(text, Endpoint::Chat).expect("a body").requested_model(),
            None,
            "{text}"
        );
    }
}

fn mario(parameters: Value) -> VirtualModel {
    let mut model = VirtualModel::alias("mario", "m", SystemTime::UNIX_EPOCH);
    model.system = "You are Mario.".into();
    let stored = r#"{"role":"user","content":"Who?"}"#.to_owned();
    model.messages = vec![serde_json::value::RawValue::from_string(stored).expect("JSON")];
    model.parameters = parameters.as_object().expect("an object").clone();
    model
}

fn laid(text: &str, parameters: Value, endpoint: Endpoint, profile: &Profile) -> String {
    let mut body = PassBody::parse(text, endpoint).expect("a body");
    body.set_model("m");
    body.apply_defaults(&mario(parameters), endpoint, profile).expect("laid");
    String::from_utf8(body.to_bytes().into_owned()).expect("UTF-8")
}

#[test]
fn a_chat_gets_prompt_messages_and_options_where_it_says_none() {
    let chat = |text: &str| {
        laid(text, json!({"temperature": 0.5, "num_predict": 9}), Endpoint::Chat, &GENERIC)
    };
    let stored = r#"{"role":"user","content":"Who?"}"#;
    let system = r#"{"role":"system","content":"You are Mario."}"#;
    assert_eq!(
        chat(
            r#"{"model":"mario","tools":[{"z":1,"a":2}],"messages":[{"content":"Hi","role":"user"}],"temperature":1}"#
        ),
        format!(
            r#"{{"model":"m","tools":[{{"z":1,"a":2}}],"messages":[{system},{stored},{{"content":"Hi","role":"user"}}],"temperature":1,"max_tokens":9}}"#
        ),
    );
    for (role, limit) in [("system", "max_tokens"), ("developer", "max_completion_tokens")] {
        let own = format!(r#"{{"role":"{role}","content":"Be Luigi."}}"#);
        let text =
            format!(r#"{{"model":"mario","messages":[{own}],"{limit}":1,"temperature":null}}"#);
        let expected =
            format!(r#"{{"model":"m","messages":[{stored},{own}],"{limit}":1,"temperature":0.5}}"#);
        assert_eq!(chat(&text), expected);
    }
    // What is no conversation is the upstream's to refuse.
    let none = r#"{"model":"m","messages":5,"max_tokens":1,"temperature":0}"#;
    assert_eq!(chat(none), none);
}

#[test]
fn other_endpoints_get_what_they_know() {
    let all = json!({"temperature": 0.5, "num_predict": 9, "seed": 3});
    let openai = profiles::find_by_host("api.openai.com").expect("known");
    assert_eq!(
        laid(r#"{"model":"m","prompt":"x"}"#, all.clone(), Endpoint::Completions, openai),
        r#"{"model":"m","prompt":"x","max_tokens":9,"seed":3,"temperature":0.5}"#,
    );
    assert_eq!(
        laid(r#"{"model":"m","input":"x"}"#, all.clone(), Endpoint::Responses, openai),
        r#"{"model":"m","input":"x","instructions":"You are Mario.","max_output_tokens":9,"temperature":0.5}"#,
    );
    let own = r#"{"model":"m","input":"x","instructions":"Be Luigi.","max_output_tokens":1,"temperature":0}"#;
    assert_eq!(laid(own, all.clone(), Endpoint::Responses, openai), own);
    let input = r#"{"model":"m","input":"x"}"#;
    assert_eq!(laid(input, all, Endpoint::Embeddings, &GENERIC), input);
}

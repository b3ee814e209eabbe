//! `format`: JSON mode and schemas as each upstream family expects them, and the errors for invalid
//! ones.

use crate::support::*;

#[test]
fn each_form_of_format_becomes_a_response_format() {
    let bench = Bench::new();
    let schema = json!({"type": "object", "properties": {"a": {"type": "integer", "title": "A"}}});
    let named = json!({"type": "json_schema", "json_schema": {"name": "schema", "schema": schema}});
    for (format, expected) in [
        (json!(null), json!(null)),
        (json!(""), json!(null)),
        (json!("json"), json!({"type": "json_object"})),
        (schema.clone(), named),
    ] {
        for route in TEXT {
            let added = bench.added(route, &json!({"format": format}));
            assert_eq!(added["response_format"], expected, "{route} {format}");
            assert!(added.get("format").is_none(), "{route} {format}");
        }
    }
}

#[test]
fn a_format_that_is_none_is_a_500_also_for_a_stream() {
    let bench = Bench::new();
    for (format, shown) in [
        (json!("xml"), r#""\"xml\"""#),
        (json!("JSON"), r#""\"JSON\"""#),
        (json!(5), r#""5""#),
        (json!(true), r#""true""#),
        (json!(["json"]), r#""[\"json\"]""#),
    ] {
        let text =
            format!("invalid format: {shown}; expected \"json\" or a valid JSON Schema object");
        for (route, stream) in TEXT.iter().flat_map(|route| [(route, true), (route, false)]) {
            bench.refused(route, &json!({"format": format, "stream": stream}), 500, &text);
        }
    }
}

#[test]
fn an_answer_in_json_stays_text() {
    let bench = Bench::new();
    let text = r#"{"age": 5}"#;
    let change = json!({"format": "json", "stream": false});
    let answer = bench.played(CHAT, &change, vec![upstream::answer(text)]).json();
    assert_eq!(answer["message"]["content"], text);
    let answer = bench.played(GENERATE, &change, vec![upstream::answer(text)]).json();
    assert_eq!(answer["response"], text);
}

const LM_STUDIO: &str = r#"{"data":[{"id":"m","owned_by":"organization_owner"}]}"#;

#[test]
fn a_schema_is_strict_where_it_can_be() {
    let bench = Bench::new();
    let schema = |required: Value, closed: Value| json!({"type": "object", "properties": {"a": {"type": "string"}}, "required": required, "additionalProperties": closed});
    for (required, closed, strict) in [
        (json!(["a"]), json!(false), json!(true)),
        (json!([]), json!(false), Value::Null),
        (json!(["a"]), json!(true), Value::Null),
    ] {
        let added = bench.added(CHAT, &json!({"format": schema(required, closed)}));
        assert_eq!(added["response_format"]["json_schema"]["strict"], strict, "{added}");
    }
}

#[test]
fn lm_studio_gets_a_schema_for_plain_json() {
    let bench = Bench::over(LM_STUDIO);
    // The family is looked up when it matters, and then cached.
    bench.added(CHAT, &json!({"options": {"top_k": 1}}));
    let added = bench.added(CHAT, &json!({"format": "json"}));
    assert_eq!(added["response_format"]["type"], "json_schema", "{added}");
    assert_eq!(added["response_format"]["json_schema"]["schema"], json!({"type": "object"}));
}

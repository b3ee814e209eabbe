//! Only the model's name changes in a body that is passed through; all other bytes stay.

use super::*;

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

//! Golden pairs of repairs: a chat as the upstream rejects it, the rejection's own bytes, and the chat that
//! is sent next.
//!
//! Files of a case: `request.json`, `refusal.json`, `repaired.json`; `case.json` may set `status` (400),
//! and `passed` for a request that is passed on. `change.txt` is what the log says.

use crate::support::golden::cases;
use ollama_openai_proxy::backends::errors;
use ollama_openai_proxy::upstream::repair;
use ollama_openai_proxy::upstream::repair::document::{Document, RouteTraits};
use ollama_openai_proxy::upstream::repair::session::Session;
use serde_json::Value;

#[test]
fn each_kind_of_rejection_changes_a_request_in_its_way() {
    let cases = cases("repairs");
    assert!(!cases.is_empty());
    for case in cases {
        let settings: Value =
            serde_json::from_str(&case.read("case.json").unwrap_or_else(|| "{}".into()))
                .expect("JSON");
        let is_passed = settings["passed"] == true;
        let route = RouteTraits {
            is_chat: true,
            rewrites_response: !is_passed,
            may_truncate: !is_passed,
            is_passed,
            can_collect: true,
        };
        let request = case.read("request.json").expect("a request");
        let refusal = case.read("refusal.json").expect("a refusal");
        let status = settings["status"].as_u64().map_or(400, |status| status as u16);
        let about_arguments = || {
            let details = repair::read_arguments_rejection(refusal.as_bytes());
            details.filter(|_| repair::has_malformed_arguments(request.as_bytes()))
        };
        let details = errors::parse_rejection(status, refusal.as_bytes()).or_else(about_arguments);
        let details = details.unwrap_or_else(|| panic!("no rejection: {}", case.folder.display()));
        let mut document = Document::parse(&request, route).expect("an object");
        let mut session = Session::new(&document);
        let change = session.next(&details, &mut document, |_| false);
        let change = change.map_or_else(|| "none".to_owned(), |change| change.to_string());
        case.bytes("change.txt", format!("{change}\n").as_bytes());
        let repaired: Value = serde_json::from_str(&document.to_json()).expect("JSON");
        case.value("repaired.json", &repaired);
    }
}

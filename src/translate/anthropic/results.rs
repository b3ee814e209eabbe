//! The texts of results of tools that a server ran: searches, fetched pages, executed code.
//!
//! Their blocks differ from tool to tool, and new ones come, so the texts are looked for by the members
//! that hold them. Never shows what is encrypted, or ids of files.

use serde_json::Value;

use crate::api::ollama::decode::non_empty;
use crate::translate::media::documents::titled;

/// Members that hold text, or more of it, in the order of the text.
const TEXT_MEMBERS: [&str; 9] =
    ["title", "url", "text", "stdout", "stderr", "source", "data", "content", "lines"];

/// The text of a failed tool: OpenAI's tool messages have no member for a failure.
pub(super) fn error_text(text: &str) -> String {
    if text.is_empty() { "Error".to_owned() } else { format!("Error: {text}") }
}

/// The text of a tool that has become available.
pub(super) fn reference_text(name: &str) -> String {
    format!("Tool {name} is now available.")
}

/// The text of a result; `names` gives the name by which the model knows a tool.
pub(super) fn to_text(content: &Value, names: &mut dyn FnMut(&str) -> String) -> String {
    let mut lines = Vec::new();
    collect(content, names, &mut lines);
    lines.concat()
}

fn collect(value: &Value, names: &mut dyn FnMut(&str) -> String, lines: &mut Vec<String>) {
    let object = match value {
        Value::String(text) => return push_line(lines, text),
        Value::Array(list) => return list.iter().for_each(|it| collect(it, names, lines)),
        Value::Object(object) => object,
        _ => return,
    };
    let text = |member: &str| object.get(member).and_then(Value::as_str).unwrap_or_default();
    match text("type") {
        "web_search_result" => {
            return lines.push(format!("- {}: {}\n", text("title"), text("url")));
        }
        "tool_reference" => return push_line(lines, &reference_text(&names(text("tool_name")))),
        "document" => {
            let mut inner = Vec::new();
            object.get("source").into_iter().for_each(|it| collect(it, names, &mut inner));
            let (title, context) =
                (non_empty(Some(text("title"))), non_empty(Some(text("context"))));
            return push_line(lines, &titled(title, context, &inner.concat()));
        }
        "base64" | "image" => return,
        _ => {}
    }
    if let Some(code) = non_empty(Some(text("error_code"))) {
        lines.push(error_text(code));
    }
    for member in TEXT_MEMBERS.iter().filter_map(|member| object.get(*member)) {
        collect(member, names, lines);
    }
    object.get("tool_references").into_iter().for_each(|it| collect(it, names, lines));
    if let Some(code) = object.get("return_code").and_then(Value::as_i64).filter(|code| *code != 0)
    {
        push_line(lines, &format!("exit code {code}"));
    }
}

/// Adds a text behind a line break, unless it is the first one.
fn push_line(lines: &mut Vec<String>, text: &str) {
    if text.is_empty() {
        return;
    }
    let is_begun = lines.last().is_some_and(|line| !line.ends_with('\n'));
    lines.push(if is_begun { format!("\n{text}") } else { text.to_owned() });
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_texts_of_each_kind_of_result_are_found() {
        let check = |content: Value, expected: &str| {
            assert_eq!(to_text(&content, &mut |name| name.to_owned()), expected, "{content}");
        };
        check(
            json!([{"type": "web_search_result", "url": "u", "title": "t",
            "encrypted_content": "x"}]),
            "- t: u\n",
        );
        check(json!({"type": "web_search_tool_result_error", "error_code": "e"}), "Error: e");
        let source = json!({"type": "text", "media_type": "text/plain", "data": "page"});
        check(
            json!({"type": "web_fetch_result", "url": "u", "content":
            {"type": "document", "title": "T", "source": source}}),
            "u\nDocument: T\n\npage",
        );
        check(
            json!({"type": "code_execution_result", "stdout": "out\n", "stderr": "err",
            "return_code": 1, "content": [{"type": "code_execution_output", "file_id": "f"}]}),
            "out\nerr\nexit code 1",
        );
        check(
            json!({"type": "text_editor_code_execution_str_replace_result",
            "lines": ["-a", "+b"]}),
            "-a\n+b",
        );
        check(json!({"type": "text_editor_code_execution_view_result", "content": "file"}), "file");
        check(
            json!({"type": "tool_search_tool_search_result", "tool_references":
            [{"type": "tool_reference", "tool_name": "f"}]}),
            "Tool f is now available.",
        );
        check(json!({"type": "advisor_result", "text": "do"}), "do");
        check(json!({"type": "advisor_redacted_result", "encrypted_content": "x"}), "");
        check(json!(null), "");
        check(json!("plain"), "plain");
        check(json!({"type": "of_tomorrow", "text": "new"}), "new");
    }
}

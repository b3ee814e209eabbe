//! Translates Anthropic's tools to functions.
//!
//! | tool | translation |
//! | --- | --- |
//! | the client's own (no `type`, or `custom`) | a function with its description and schema |
//! | `bash`, `text_editor`, `memory`, `computer` with a date | a function with a schema of ours |
//! | `web_search`, `web_fetch`, `code_execution`, `tool_search_tool`, `advisor`, `mcp_toolset` | left out |
//! | any other type without a schema | left out, and told in the log |
//!
//! Of its own tools only name, description and schema are sent, and examples in the description. Names are
//! made legal for every upstream ([`crate::translate::tool_names`]).
//!
//! A tool that the client defers (`defer_loading`) is declared once a `tool_reference` names it, or a
//! call, or the choice of tools. Without a search that the client runs, no tool is deferred: the model
//! could not find it.

use std::borrow::Cow;
use std::collections::HashSet;

use serde_json::Value;
use serde_json::value::RawValue;

use crate::api::anthropic::lenient::object;
use crate::api::anthropic::request::{Content, ContentBlock, MessagesRequest, Tool};
use crate::api::ollama::decode::{GoString, non_empty};
use crate::api::ollama::request::{FunctionDefinition, Tool as OllamaTool};
use crate::api::ollama::schema::Schema;
use crate::translate::cache_marks;
use crate::translate::skipped::{Skipped, SkippedKind};
use crate::translate::tool_calls::compact_json;
use crate::translate::tool_names::{ToolForm, ToolNames};

/// Tools that Anthropic's servers run, by their type without its date.
const SERVER_TOOLS: [&str; 7] = [
    "web_search",
    "web_fetch",
    "code_execution",
    "tool_search_tool_regex",
    "tool_search_tool_bm25",
    "advisor",
    "mcp_toolset",
];

/// A tool of a fixed type that the client runs.
struct ClientTool {
    /// Its type without the date.
    kind: &'static str,
    name: &'static str,
    description: &'static str,
    schema: &'static str,
}

/// The tools that clients run, with the members of their input (Anthropic API reference, tool use).
const CLIENT_TOOLS: [ClientTool; 4] = [
    ClientTool {
        kind: "bash",
        name: "bash",
        description: "Runs a command in a bash session that keeps its state.",
        schema: r#"{"type":"object","properties":{"command":{"type":"string","description":"The command to run."},"restart":{"type":"boolean","description":"True restarts the session."}}}"#,
    },
    ClientTool {
        kind: "text_editor",
        name: "str_replace_based_edit_tool",
        description: "Views, creates and edits files.",
        schema: r#"{"type":"object","properties":{"command":{"type":"string","enum":["view","create","str_replace","insert","undo_edit"]},"path":{"type":"string","description":"The path of the file or folder."},"view_range":{"type":"array","items":{"type":"integer"},"description":"First and last line to view."},"file_text":{"type":"string","description":"The text of the file to create."},"old_str":{"type":"string","description":"The text to replace, which stands once in the file."},"new_str":{"type":"string","description":"The new text."},"insert_line":{"type":"integer","description":"The line behind which the text is inserted."},"insert_text":{"type":"string","description":"The text to insert."}},"required":["command","path"]}"#,
    },
    ClientTool {
        kind: "memory",
        name: "memory",
        description: "Views, creates, edits, renames and deletes files below /memories, which are kept from conversation to conversation.",
        schema: r#"{"type":"object","properties":{"command":{"type":"string","enum":["view","create","str_replace","insert","delete","rename"]},"path":{"type":"string"},"view_range":{"type":"array","items":{"type":"integer"}},"file_text":{"type":"string"},"old_str":{"type":"string"},"new_str":{"type":"string"},"insert_line":{"type":"integer"},"insert_text":{"type":"string"},"old_path":{"type":"string"},"new_path":{"type":"string"}},"required":["command"]}"#,
    },
    ClientTool {
        kind: "computer",
        name: "computer",
        description: "Controls mouse and keyboard of a computer and takes screenshots.",
        schema: r#"{"type":"object","properties":{"action":{"type":"string","enum":["key","hold_key","type","cursor_position","mouse_move","left_mouse_down","left_mouse_up","left_click","left_click_drag","right_click","middle_click","double_click","triple_click","scroll","wait","screenshot","zoom"]},"coordinate":{"type":"array","items":{"type":"integer"},"description":"x and y in pixels."},"start_coordinate":{"type":"array","items":{"type":"integer"}},"text":{"type":"string"},"scroll_direction":{"type":"string","enum":["up","down","left","right"]},"scroll_amount":{"type":"integer"},"duration":{"type":"number"},"region":{"type":"array","items":{"type":"integer"}}},"required":["action"]}"#,
    },
];

/// The name of the editor in its first versions.
const OLD_EDITOR_NAME: &str = "str_replace_editor";

/// What a tool is to us.
enum Kind {
    Own,
    Client(&'static ClientTool),
    Server,
    Unknown,
}

/// The names of the tools that a request declares; those that only its history has are added where it is
/// translated.
pub fn tool_names(request: &MessagesRequest<'_>) -> ToolNames {
    let mut names = ToolNames::default();
    for tool in tools(request) {
        let name = match kind(tool) {
            Kind::Own => tool.name.as_deref().unwrap_or_default(),
            Kind::Client(client) => client_name(tool, client),
            Kind::Server | Kind::Unknown => continue,
        };
        if !name.is_empty() {
            names.declare(ToolForm::Function, None, name);
        }
    }
    names
}

/// The functions that the model may call.
pub(super) fn to_functions<'a>(
    request: &'a MessagesRequest<'a>,
    names: &mut ToolNames,
    skipped: &mut Skipped,
) -> Vec<OllamaTool<'a>> {
    let is_deferred = |tool: &&Tool<'_>| tool.defer_loading.is_some_and(|it| it.0);
    let has_deferred = tools(request).any(|tool| is_deferred(&tool));
    let is_search = |tool: &Tool<'_>| !is_deferred(&tool) && is_client_search(tool);
    let referenced = (has_deferred && tools(request).any(is_search)).then(|| references(request));
    let is_declared = |tool: &&Tool<'_>| {
        let name = tool.name.as_deref().unwrap_or_default();
        !is_deferred(tool) || referenced.as_ref().is_none_or(|known| known.contains(name))
    };
    let mut out = Vec::new();
    for tool in tools(request).filter(is_declared) {
        let function = match kind(tool) {
            Kind::Own => own_function(tool, names),
            Kind::Client(client) => client_function(tool, client, names),
            Kind::Server => continue,
            Kind::Unknown => {
                skipped.note(SkippedKind::Tool, tool.kind.as_deref().unwrap_or_default());
                continue;
            }
        };
        let cache_control = tool.cache_control.filter(|mark| cache_marks::is_mark(mark));
        out.push(OllamaTool { function: Some(function), cache_control });
    }
    out
}

fn tools<'a>(request: &'a MessagesRequest<'a>) -> impl Iterator<Item = &'a Tool<'a>> {
    request.tools.iter().flatten().filter_map(|tool| tool.0.as_ref())
}

fn kind(tool: &Tool<'_>) -> Kind {
    let kind = tool.kind.as_deref().unwrap_or_default();
    let (family, has_date) = split_date(kind);
    let client = CLIENT_TOOLS.iter().find(|client| has_date && client.kind == family);
    let has_schema = tool.input_schema.is_some_and(|schema| schema.get().starts_with('{'));
    match client {
        Some(client) if !has_schema => Kind::Client(client),
        _ if SERVER_TOOLS.contains(&family) => Kind::Server,
        _ if kind.is_empty() || kind == "custom" || has_schema => Kind::Own,
        _ => Kind::Unknown,
    }
}

/// A type without its date, and whether it has one: `bash_20250124` is `bash`.
fn split_date(kind: &str) -> (&str, bool) {
    let is_date = |date: &str| date.len() == 8 && date.bytes().all(|it| it.is_ascii_digit());
    match kind.rsplit_once('_') {
        Some((family, date)) if is_date(date) => (family, true),
        _ => (kind, false),
    }
}

fn own_function<'a>(tool: &'a Tool<'a>, names: &mut ToolNames) -> FunctionDefinition<'a> {
    let parameters = tool.input_schema.filter(|schema| schema.get().starts_with('{'));
    FunctionDefinition {
        name: Some(legal_name(tool.name.as_deref().unwrap_or_default(), names)),
        description: description(tool),
        parameters: parameters.map(Schema),
    }
}

fn client_function<'a>(
    tool: &'a Tool<'a>,
    client: &'static ClientTool,
    names: &mut ToolNames,
) -> FunctionDefinition<'a> {
    let schema: Option<&'static RawValue> = serde_json::from_str(client.schema).ok();
    FunctionDefinition {
        name: Some(legal_name(client_name(tool, client), names)),
        description: Some(GoString(client.description.into())),
        parameters: schema.map(Schema),
    }
}

fn client_name<'a>(tool: &'a Tool<'_>, client: &'static ClientTool) -> &'a str {
    let kind = tool.kind.as_deref().unwrap_or_default();
    let is_old_editor = client.kind == "text_editor" && kind < "text_editor_20250429";
    let usual = if is_old_editor { OLD_EDITOR_NAME } else { client.name };
    non_empty(tool.name.as_deref()).unwrap_or(usual)
}

fn legal_name<'a>(name: &'a str, names: &mut ToolNames) -> GoString<'a> {
    if name.is_empty() {
        return GoString::default();
    }
    let legal = names.declare(ToolForm::Function, None, name);
    GoString(if legal == name { Cow::Borrowed(name) } else { Cow::Owned(legal.to_owned()) })
}

/// The description, with the examples behind it.
fn description<'a>(tool: &'a Tool<'a>) -> Option<GoString<'a>> {
    let text = tool.description.as_deref();
    let examples = tool.input_examples.and_then(|raw| {
        let list: Vec<&RawValue> = serde_json::from_str(raw.get()).ok()?;
        let lines: Vec<String> = list.iter().map(|example| compact_json(example.get())).collect();
        (!lines.is_empty()).then(|| lines.join("\n"))
    });
    match examples {
        Some(examples) => {
            let text = text.unwrap_or_default();
            Some(GoString(
                format!("{text}\n\nExamples of input:\n{examples}").trim_start().to_owned().into(),
            ))
        }
        None => text.map(|text| GoString(text.into())),
    }
}

/// True for a search for tools that the client runs, such as Claude Code's `ToolSearch`.
fn is_client_search(tool: &Tool<'_>) -> bool {
    let name = tool.name.as_deref().unwrap_or_default();
    let letters = name.chars().filter(char::is_ascii_alphabetic);
    let plain: String = letters.map(|c| c.to_ascii_lowercase()).collect();
    let is_named = plain.contains("toolsearch") || plain.contains("searchtool");
    is_named && matches!(kind(tool), Kind::Own)
}

/// The name in a `tool_reference`, `tool_addition` or `tool_removal`.
pub(super) fn referenced_tool<'b>(block: &'b ContentBlock<'_>) -> Option<&'b str> {
    let tool = object(&block.tool);
    let inner = tool.and_then(|tool| {
        non_empty(tool.name.as_deref()).or_else(|| non_empty(tool.tool_name.as_deref()))
    });
    let own = non_empty(block.tool_name.as_deref()).or_else(|| non_empty(block.name.as_deref()));
    inner.or(own)
}

/// The names of all tools that the conversation, or the choice of tools, mentions.
fn references(request: &MessagesRequest<'_>) -> HashSet<String> {
    let mut found = HashSet::new();
    let chosen = object(&request.tool_choice).and_then(|choice| choice.name.as_deref());
    found.extend(chosen.map(str::to_owned));
    for message in request.messages.iter().flatten() {
        let Some(Content::Blocks(blocks)) = &message.content else { continue };
        for block in blocks {
            note_reference(block, &mut found);
            match block.kind() {
                "tool_result" | "mid_conv_system" => {
                    block.inner_blocks().iter().for_each(|inner| note_reference(inner, &mut found));
                }
                "tool_search_tool_result" => {
                    let content = block.content.map(|raw| serde_json::from_str(raw.get()));
                    let content: Value = content.and_then(Result::ok).unwrap_or_default();
                    let list = content["tool_references"].as_array().into_iter().flatten();
                    let names = list.filter_map(|it| it["tool_name"].as_str());
                    found.extend(names.map(str::to_owned));
                }
                _ => {}
            }
        }
    }
    found
}

fn note_reference(block: &ContentBlock<'_>, found: &mut HashSet<String>) {
    if matches!(block.kind(), "tool_reference" | "tool_addition" | "tool_use") {
        found.extend(referenced_tool(block).map(str::to_owned));
    }
}

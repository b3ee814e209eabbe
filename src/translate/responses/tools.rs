//! Translates the tools of a request to functions, wherever it declares them.
//!
//! | tool | translation |
//! | --- | --- |
//! | `function` | a function |
//! | `custom` | a function with the one text `input`; a grammar stands behind the description |
//! | `namespace` | one function for each member |
//! | `tool_search` that the client runs | the function `tool_search` |
//! | `local_shell` | the function `local_shell` |
//! | those that OpenAI's servers run | nothing |
//! | all others | left out, and told in the log |
//!
//! Tools are declared in `tools`, in items of the type `additional_tools`, and in what a search found
//! (`tool_search_output`). A tool with `defer_loading` is known to the model only once it was found, unless
//! there is no search; the member itself is never sent. Never fails. Invariant: no two functions have one
//! name.

use std::borrow::Cow;
use std::collections::HashSet;

use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::calls::{self, LOCAL_SHELL, TOOL_SEARCH};
use crate::api::ollama::decode::GoString;
use crate::api::ollama::request::{FunctionDefinition, Tool};
use crate::api::ollama::schema::Schema;
use crate::api::openai::request as openai;
use crate::api::openai::responses_input::{Members, elements, is_true, non_empty_text, text};
use crate::translate::skipped::{Skipped, SkippedKind};
use crate::translate::tool_names::{ToolForm, ToolNames};
use crate::translate::tools;

/// The parameters of the function that stands for a custom tool.
pub(crate) const CUSTOM_PARAMETERS: &str = r#"{"type":"object","properties":{"input":{"type":"string"}},"required":["input"],"additionalProperties":false}"#;

/// The parameters of a search without its own.
const SEARCH_PARAMETERS: &str = r#"{"type":"object","properties":{"query":{"type":"string"},"limit":{"type":"integer"}},"required":["query"]}"#;

/// The parameters of the client's shell (openai/codex, `local_shell`).
const SHELL_PARAMETERS: &str = r#"{"type":"object","properties":{"command":{"type":"array","items":{"type":"string"},"description":"The program and its arguments."},"workdir":{"type":"string","description":"The directory to run it in."},"timeout_ms":{"type":"integer","description":"The most time that it may take, in milliseconds."}},"required":["command"]}"#;

const SHELL_DESCRIPTION: &str = "Runs a shell command and returns its output.";

const SEARCH_DESCRIPTION: &str = "Searches for tools, which can be called once they are found.";

/// Tools that OpenAI's servers run, or whose calls only its own models make. Names with a date or
/// `_preview` behind these mean the same.
const SERVER_TOOLS: &[&str] = &[
    "apply_patch",
    "code_interpreter",
    "computer",
    "file_search",
    "image_generation",
    "mcp",
    "programmatic_tool_calling",
    "shell",
    "web_search",
];

/// A tool in one of its declarations.
struct Declaration<'a> {
    form: ToolForm,
    namespace: Option<Cow<'a, str>>,
    name: Cow<'a, str>,
    description: Cow<'a, str>,
    parameters: Option<&'a RawValue>,
    is_deferred: bool,
}

/// The namespace around a tool.
#[derive(Default)]
struct Parent<'a> {
    namespace: Option<Cow<'a, str>>,
    is_deferred: bool,
}

impl Declaration<'_> {
    fn key(&self) -> (Option<String>, String) {
        (self.namespace.as_deref().map(str::to_owned), self.name.clone().into_owned())
    }
}

/// All declarations of a request, in order.
#[derive(Default)]
pub(super) struct Declarations<'a> {
    all: Vec<Declaration<'a>>,
    /// Deferred tools that the model knows of: those that a search found, and those that were called.
    found: HashSet<(Option<String>, String)>,
}

impl<'a> Declarations<'a> {
    /// Adds the tools of a list.
    pub(super) fn add(&mut self, list: &[&'a RawValue], skipped: &mut Skipped) {
        list.iter().for_each(|raw| self.add_tool(raw, &Parent::default(), skipped));
    }

    /// Adds tools that a search found, which are deferred no longer.
    pub(super) fn add_found(&mut self, list: &[&'a RawValue], skipped: &mut Skipped) {
        let before = self.all.len();
        self.add(list, skipped);
        for declaration in &mut self.all[before..] {
            declaration.is_deferred = false;
            self.found.insert(declaration.key());
        }
    }

    /// Notes that a tool was called, so that the model knows of it.
    pub(super) fn mark_called(&mut self, namespace: Option<&str>, name: &str) {
        self.found.insert((namespace.map(str::to_owned), name.to_owned()));
    }

    /// The functions for the upstream; the names of all tools are added to `names`.
    pub(super) fn finish(self, names: &mut ToolNames) -> Vec<Tool<'a>> {
        let searches = self.all.iter().any(|it| it.form == ToolForm::ToolSearch);
        let found = &self.found;
        let is_known =
            |it: &Declaration<'_>| !it.is_deferred || !searches || found.contains(&it.key());
        let (known, hidden): (Vec<_>, Vec<_>) = self.all.into_iter().partition(is_known);
        let mut sent = HashSet::new();
        let mut out = Vec::with_capacity(known.len());
        for tool in known {
            let name = names.declare(tool.form, tool.namespace.as_deref(), &tool.name).to_owned();
            if sent.insert(name.clone()) {
                out.push(to_tool(name, tool));
            }
        }
        for tool in hidden {
            names.declare(tool.form, tool.namespace.as_deref(), &tool.name);
        }
        out
    }

    fn add_tool(&mut self, raw: &'a RawValue, parent: &Parent<'a>, skipped: &mut Skipped) {
        let Some(tool) = Members::parse(Some(raw)) else {
            return skipped.note(SkippedKind::Tool, "");
        };
        let kind = non_empty_text(tool.get("type"));
        let kind = kind.as_deref().unwrap_or_else(|| guess_type(&tool));
        // Chat completions has the members of a function in an object of their own.
        let inner = Members::parse(tool.get("function")).unwrap_or_default();
        let name = non_empty_text(tool.get("name").or(inner.get("name")));
        let description =
            text(tool.get("description").or(inner.get("description"))).unwrap_or_default();
        let parameters = tool.get("parameters").or(inner.get("parameters"));
        let is_deferred = parent.is_deferred || is_true(tool.get("defer_loading"));
        let (form, name, description, parameters) = match (kind, name) {
            ("function", Some(name)) => (ToolForm::Function, name, description, parameters),
            ("custom", Some(name)) => {
                let description = describe_custom(&description, tool.get("format"));
                (ToolForm::Custom, name, description.into(), static_json(CUSTOM_PARAMETERS))
            }
            ("namespace", Some(name)) if parent.namespace.is_none() => {
                let parent = Parent { namespace: Some(name), is_deferred };
                let members = elements(tool.get("tools")).into_iter();
                return members.for_each(|member| self.add_tool(member, &parent, skipped));
            }
            // Without the client, nobody runs it.
            ("tool_search", _) if text(tool.get("execution")).as_deref() == Some("server") => {
                return;
            }
            ("tool_search", _) => {
                let parameters = parameters.or_else(|| static_json(SEARCH_PARAMETERS));
                let description = non_empty_or(description, SEARCH_DESCRIPTION);
                (ToolForm::ToolSearch, TOOL_SEARCH.into(), description, parameters)
            }
            ("local_shell", _) => {
                let description = non_empty_or(description, SHELL_DESCRIPTION);
                let parameters = static_json(SHELL_PARAMETERS);
                (ToolForm::LocalShell, LOCAL_SHELL.into(), description, parameters)
            }
            (server, _) if is_server_tool(server) => return,
            (other, _) => return skipped.note(SkippedKind::Tool, other),
        };
        let namespace = parent.namespace.clone();
        let parameters = parameters.filter(|raw| raw.get().starts_with('{'));
        self.all.push(Declaration { form, namespace, name, description, parameters, is_deferred });
    }
}

/// The type of a tool that has none, from its other members.
fn guess_type(tool: &Members<'_>) -> &'static str {
    if tool.get("tools").is_some() {
        "namespace"
    } else if tool.get("name").is_some() || tool.get("function").is_some() {
        "function"
    } else {
        ""
    }
}

fn is_server_tool(kind: &str) -> bool {
    SERVER_TOOLS.iter().any(|known| {
        kind.strip_prefix(known).is_some_and(|rest| {
            let is_version = |c: char| c.is_ascii_digit() || c == '_';
            let rest = rest.strip_prefix("_preview").or(rest.strip_prefix("_use")).unwrap_or(rest);
            rest.strip_prefix("_preview").unwrap_or(rest).chars().all(is_version)
        })
    })
}

fn non_empty_or<'a>(text: Cow<'a, str>, other: &'static str) -> Cow<'a, str> {
    if text.is_empty() { Cow::Borrowed(other) } else { text }
}

fn static_json(json: &'static str) -> Option<&'static RawValue> {
    serde_json::from_str(json).ok()
}

/// The description of a custom tool: its grammar cannot be enforced by an upstream, but told to the model.
pub(crate) fn describe_custom(description: &str, format: Option<&RawValue>) -> String {
    let format = Members::parse(format).unwrap_or_default();
    // In `chat/completions` these are members of a member.
    let format = Members::parse(format.get("grammar")).unwrap_or(format);
    let grammar = non_empty_text(format.get("definition"));
    let syntax = non_empty_text(format.get("syntax")).unwrap_or_default();
    let mut out = description.to_owned();
    if !out.is_empty() {
        out.push_str("\n\n");
    }
    out.push_str(
        "The text of the call belongs in `input`, as it is, without JSON or quotes around it.",
    );
    if let Some(grammar) = grammar {
        let syntax = if syntax.is_empty() { String::new() } else { format!(" ({syntax})") };
        out.push_str(&format!(" It must match this grammar{syntax}:\n{grammar}"));
    }
    out
}

fn to_tool<'a>(name: String, tool: Declaration<'a>) -> Tool<'a> {
    let function = FunctionDefinition {
        name: Some(GoString(Cow::Owned(name))),
        description: Some(GoString(tool.description)),
        parameters: tool.parameters.map(Schema),
    };
    Tool { function: Some(function), ..Tool::default() }
}

/// What a search found, by the names that the model can call.
pub(super) fn list_found(raw: &RawValue, names: &mut ToolNames) -> Vec<Value> {
    let Some(tool) = Members::parse(Some(raw)) else { return Vec::new() };
    let members = elements(tool.get("tools"));
    if members.is_empty() {
        return list_one(&tool, None, names).into_iter().collect();
    }
    let namespace = non_empty_text(tool.get("name"));
    let members = members.into_iter().filter_map(|member| Members::parse(Some(member)));
    members.filter_map(|member| list_one(&member, namespace.as_deref(), names)).collect()
}

fn list_one(tool: &Members<'_>, namespace: Option<&str>, names: &mut ToolNames) -> Option<Value> {
    let name = non_empty_text(tool.get("name"))?;
    let name = calls::upstream_name(names, ToolForm::Function, namespace, &name);
    let description = text(tool.get("description")).unwrap_or_default();
    Some(json!({ "name": name, "description": description }))
}

/// Which tools the model may or must call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Choice {
    /// What the model wants, or a choice that has no meaning for these tools.
    #[default]
    Auto,
    /// No tool.
    None,
    /// Any tool.
    Required,
    /// This function, by its upstream's name.
    Function(String),
}

impl Choice {
    /// The choice in chat's form, if one of `tools` is meant.
    pub(super) fn to_openai<'a>(
        &self,
        tools: &[openai::Tool<'a>],
    ) -> Option<openai::ToolChoice<'a>> {
        match self {
            Self::Auto => None,
            Self::None => Some(openai::ToolChoice::Mode("none")),
            Self::Required => Some(openai::ToolChoice::Mode("required")),
            Self::Function(name) => tools::choose(tools, name),
        }
    }
}

/// Reads `tool_choice`. A choice among several tools leaves only those in `tools`.
pub(super) fn read_choice(
    raw: Option<&RawValue>,
    tools: &mut Vec<Tool<'_>>,
    names: &mut ToolNames,
) -> Choice {
    if let Some(choice) = Members::parse(raw) {
        let kind = non_empty_text(choice.get("type"));
        return match kind.as_deref() {
            Some("allowed_tools") => read_allowed(&choice, tools, names),
            kind => chosen_name(kind, &choice, names).map_or(Choice::Auto, Choice::Function),
        };
    }
    to_mode(text(raw).as_deref())
}

fn to_mode(mode: Option<&str>) -> Choice {
    match mode {
        Some("none") => Choice::None,
        Some("required") => Choice::Required,
        _ => Choice::Auto,
    }
}

fn read_allowed(choice: &Members<'_>, tools: &mut Vec<Tool<'_>>, names: &mut ToolNames) -> Choice {
    let allowed = elements(choice.get("tools")).into_iter().filter_map(|raw| {
        let tool = Members::parse(Some(raw))?;
        chosen_name(non_empty_text(tool.get("type")).as_deref(), &tool, names)
    });
    let allowed: HashSet<String> = allowed.collect();
    let is_allowed = |tool: &Tool<'_>| {
        let name = tool.function.as_ref().and_then(|function| function.name.as_deref());
        name.is_some_and(|name| allowed.contains(name))
    };
    // Otherwise only tools are allowed that were left out.
    if tools.iter().any(is_allowed) {
        tools.retain(is_allowed);
        return to_mode(text(choice.get("mode")).as_deref());
    }
    Choice::Auto
}

/// The upstream's name of the tool that a choice names.
fn chosen_name(kind: Option<&str>, choice: &Members<'_>, names: &mut ToolNames) -> Option<String> {
    let form = match kind {
        None | Some("function") => ToolForm::Function,
        Some("custom") => ToolForm::Custom,
        Some("tool_search") => return Some(TOOL_SEARCH.to_owned()),
        Some("local_shell") => return Some(LOCAL_SHELL.to_owned()),
        Some(_) => return None,
    };
    let inner = Members::parse(choice.get("function")).unwrap_or_default();
    let name = non_empty_text(choice.get("name").or(inner.get("name")))?;
    let namespace = calls::namespace(choice);
    Some(calls::upstream_name(names, form, namespace.as_deref(), &name))
}

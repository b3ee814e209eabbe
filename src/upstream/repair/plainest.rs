//! The plainest form of a chat request, for rejections of no known kind.
//!
//! Most rejections are about form, and most forms have a plainer one that means the same. The changes are
//! made in groups, so that later requests can do without those that were not needed.
//! Invariant: the model, all words in their order, images, tools, calls, results and the wish for JSON
//! stay.

use super::document::{Document, TOOLS};
use super::kinds::{self, Topic};
use super::repairs::{self, Repair, TOKEN_LIMIT_FIELDS};
use super::response_format;
use super::turn::Turn;
use super::{calls, custom_tools, order, schemas};
use crate::api::openai::raw_object;
use crate::api::openai::raw_object::RawObject;

/// The largest limit that is applied to the response when it is left out of the request.
const MAX_WATCHED_LIMIT: u64 = 4096;

/// Levels of a schema in which lists of types are looked for.
const MAX_DEPTH: usize = 64;

/// A group of changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Group {
    /// Sampling parameters, and all members that no other group is about.
    Sampling,
    /// The token limit.
    Limit,
    /// The format of the response.
    Format,
    /// Switches for reasoning.
    Switches,
    /// The choice of tools.
    Choice,
    /// Stop sequences.
    Stop,
    /// Schemas of tools.
    Schemas,
    /// A stream in place of a whole response.
    Stream,
    /// Reasoning of messages with calls.
    Reasoning,
    /// Names of functions.
    Names,
    /// Ids of calls.
    Ids,
    /// Roles and their order.
    Roles,
    /// Messages without content.
    EmptyTurns,
    /// Calls and results in pairs.
    Pairs,
    /// The form of contents and arguments.
    ContentForm,
}

impl Group {
    /// What it is about, for the log.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Sampling => "sampling parameters",
            Self::Limit => "token limit",
            Self::Format => "response format",
            Self::Switches => "reasoning switches",
            Self::Choice => "tool choice",
            Self::Stop => "stop sequences",
            Self::Schemas => "tool schemas",
            Self::Stream => "streaming",
            Self::Reasoning => "reasoning of earlier calls",
            Self::Names => "function names",
            Self::Ids => "call ids",
            Self::Roles => "roles",
            Self::EmptyTurns => "empty messages",
            Self::Pairs => "calls and results",
            Self::ContentForm => "form of contents",
        }
    }
}

/// All groups; those that cost the user most come first.
pub const GROUPS: [Group; 15] = [
    Group::Sampling,
    Group::Limit,
    Group::Format,
    Group::Switches,
    Group::Choice,
    Group::Stop,
    Group::Schemas,
    Group::Stream,
    Group::Reasoning,
    Group::Names,
    Group::Ids,
    Group::Roles,
    Group::EmptyTurns,
    Group::Pairs,
    Group::ContentForm,
];

/// All groups in the order in which they are made: pairs, empty messages and what the format adds decide
/// which roles follow each other.
pub const ORDER: [Group; 15] = [
    Group::ContentForm,
    Group::Pairs,
    Group::EmptyTurns,
    Group::Format,
    Group::Roles,
    Group::Ids,
    Group::Names,
    Group::Reasoning,
    Group::Schemas,
    Group::Stop,
    Group::Limit,
    Group::Choice,
    Group::Switches,
    Group::Sampling,
    Group::Stream,
];

/// Members that stay or belong to another group than [`Group::Sampling`].
const OTHER_MEMBERS: &[&str] = &[
    "model",
    "messages",
    "tools",
    "stream",
    "response_format",
    "max_tokens",
    "max_completion_tokens",
    "stop",
    "tool_choice",
    "parallel_tool_calls",
    "stream_options",
];

/// Switches for reasoning and for continuations.
const SWITCHES: &[&str] = &[
    "reasoning_effort",
    "reasoning",
    "reasoning_format",
    "include_reasoning",
    "thinking",
    "enable_thinking",
    "thinking_budget",
    "chat_template_kwargs",
    "continue_final_message",
    "add_generation_prompt",
];

impl Group {
    /// Makes the changes of the group; returns whether there were some. `text` is the rejection in lower
    /// case, which tells which of two forms is meant.
    pub fn apply(self, document: &mut Document<'_>, text: &str) -> bool {
        let mut turns = |change: fn(&mut Vec<Turn<'_>>) -> bool| {
            let changed = change(document.turns());
            if changed {
                document.mark_changed();
            }
            changed
        };
        match self {
            Self::Sampling => drop_sampling(document),
            Self::Limit => drop_limit(document),
            Self::Format => simplify_format(document, text),
            Self::Switches => SWITCHES.iter().filter(|member| document.remove(member)).count() > 0,
            Self::Choice => {
                let choice = Repair::omit("tool_choice").apply(document);
                document.remove("parallel_tool_calls") | choice
            }
            Self::Stop => Repair::omit("stop").apply(document),
            Self::Schemas => {
                let custom = custom_tools::use_functions(document);
                schemas::reduce_all(document) | single_types(document) | custom
            }
            Self::Stream => {
                let is_asked = document.route.rewrites_response && !document.is_stream();
                let is_refused = text.contains("stream") || document.rejects_streams;
                if is_asked && !is_refused {
                    document.set("stream", "true");
                }
                document.remove("stream_options") | (is_asked && !is_refused)
            }
            Self::Reasoning if refuses_reasoning(text) => {
                turns(|turns| calls::drop_reasoning(turns))
            }
            Self::Reasoning => turns(|turns| calls::echo_reasoning(turns)),
            Self::Names => calls::use_legal_names(document),
            Self::Ids => turns(|turns| calls::shorten_ids(turns)),
            Self::Pairs => turns(calls::pair_calls),
            Self::EmptyTurns => turns(order::drop_empty_turns),
            Self::Roles => {
                // Where the role `developer` is not known, `system` is.
                let folds = text.contains("system") && !text.contains("developer");
                let changed =
                    if folds { turns(order::fold_system_into_user) } else { turns(join_system) };
                let changed = turns(order::merge_neighbours) | changed;
                let changed = turns(order::add_user) | turns(order::separate_results) | changed;
                repairs::ask_to_go_on(document) | changed
            }
            Self::ContentForm => {
                let form = turns(|turns| {
                    let names = drop_names(turns);
                    let arguments = calls::mend_calls(turns);
                    order::flatten_texts(turns) | names | arguments
                });
                repairs::drop_all_cache_marks(document) | form
            }
        }
    }
}

/// Makes the plainest form; returns the groups that changed something.
pub fn apply_all(document: &mut Document<'_>, text: &str) -> Vec<Group> {
    let changed: Vec<Group> =
        ORDER.into_iter().filter(|group| group.apply(document, text)).collect();
    // Stop sequences that are watched for need a stream, which asks for its token counts.
    document.remove("stream_options");
    GROUPS.into_iter().filter(|group| changed.contains(group)).collect()
}

/// True if a rejection says that reasoning may not be sent.
fn refuses_reasoning(text: &str) -> bool {
    text.contains("reasoning_content") && kinds::says(text, Topic::Unsupported)
}

fn drop_sampling(document: &mut Document<'_>) -> bool {
    let names = document.names().into_iter();
    let dropped = names.filter(|name| {
        let is_other = [OTHER_MEMBERS, SWITCHES].concat().contains(&name.as_str());
        !is_other && document.remove(name)
    });
    dropped.count() > 0
}

fn drop_limit(document: &mut Document<'_>) -> bool {
    let mut changed = false;
    for member in TOKEN_LIMIT_FIELDS {
        let limit = document.value(member).and_then(|limit| limit.as_u64());
        if document.remove(member) {
            changed = true;
            let watched = limit.filter(|limit| *limit <= MAX_WATCHED_LIMIT);
            document.effects.token_limit = watched.filter(|_| document.route.rewrites_response);
        }
    }
    changed
}

fn simplify_format(document: &mut Document<'_>, text: &str) -> bool {
    let Some(_) = response_format::find(document) else { return false };
    let speaks_of_it = ["json", "schema", "format", "grammar"];
    if document.has_tools() || speaks_of_it.iter().any(|word| text.contains(word)) {
        return response_format::format_to_prompt(document);
    }
    let mut changed = response_format::object_to_schema(document);
    changed |= response_format::drop_strict(document);
    changed |= response_format::wrap_root(document);
    changed | schemas::reduce_all(document)
}

/// All instructions as one system message in front.
fn join_system(turns: &mut Vec<Turn<'_>>) -> bool {
    let is_plain = turns.iter().skip(1).all(|turn| !turn.is_system())
        && turns.first().is_none_or(|turn| !turn.is("developer"));
    if is_plain {
        return false;
    }
    let texts: Vec<String> =
        turns.iter().filter(|turn| turn.is_system()).map(Turn::as_text).collect();
    turns.retain(|turn| !turn.is_system());
    turns.insert(0, Turn::text("system", &texts.join("\n\n")));
    true
}

/// Removes `name` from messages.
fn drop_names(turns: &mut [Turn<'_>]) -> bool {
    turns.iter_mut().filter(|turn| !turn.is("tool") && turn.object.has_value("name")).fold(
        false,
        |_, turn| {
            turn.object.remove("name");
            true
        },
    )
}

/// In schemas of tools, a list of types becomes the first that is not `null`.
fn single_types(document: &mut Document<'_>) -> bool {
    let Some(tools) = document.get(TOOLS) else { return false };
    if !tools.contains("\"type\"") {
        return false;
    }
    let simplified = simplify_types(tools, 0);
    let changes = simplified != tools;
    if changes {
        document.set(TOOLS, simplified);
    }
    changes
}

fn simplify_types(text: &str, depth: usize) -> String {
    if depth >= MAX_DEPTH {
        return text.to_owned();
    }
    let inner = |text: &str| simplify_types(text, depth + 1);
    if let Some(object) = RawObject::parse(text) {
        let mut out = RawObject::default();
        for (name, value) in object.members() {
            let kinds = (name == "type").then(|| raw_object::parse_items(value)).flatten();
            let kind = kinds.and_then(|kinds| {
                kinds.into_iter().find(|it| it.starts_with('"') && *it != "\"null\"")
            });
            out.set(name, kind.map_or_else(|| inner(value), str::to_owned));
        }
        return out.to_json();
    }
    match raw_object::parse_items(text).filter(|_| text.starts_with('[')) {
        Some(items) => {
            let items: Vec<String> = items.into_iter().map(inner).collect();
            raw_object::join_items(&items)
        }
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::upstream::repair::document::RouteTraits;

    #[test]
    fn a_format_counts_as_changed_whichever_of_its_parts_was() {
        let schema = |schema: serde_json::Value, strict: bool| json!({"type": "json_schema", "json_schema": {"name": "n", "schema": schema, "strict": strict}});
        let object = json!({"type": "object", "properties": {"a": {"type": "string"}}});
        for (format, changes) in [
            (schema(object.clone(), true), true),
            (json!({"type": "json_object"}), true),
            (json!({"type": "text"}), false),
        ] {
            let body = json!({"model": "m", "messages": [{"role": "user", "content": "Hi"}],
                "response_format": format});
            let text = body.to_string();
            let mut document = Document::parse(&text, RouteTraits::default()).expect("an object");
            assert_eq!(Group::Format.apply(&mut document, "no"), changes, "{format}");
        }
    }
}

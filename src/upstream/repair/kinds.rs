//! The kinds of rejections, and the words by which they are known.
//!
//! The words are data: `rejections.txt` has one row for each kind, and is the only place where wording
//! lives. Structure comes first: the field that a rejection blames. Then words, because servers share
//! neither fields nor codes. A rejection of no kind is answered with the request's plainest form
//! ([`super::plainest`]). Invariant: each kind and each topic has a row.

use std::collections::HashSet;
use std::sync::LazyLock;

use crate::backends::errors::ErrorDetails;

/// What a rejection is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Reasoning and tools exclude each other.
    EffortWithTools,
    /// Calls without results, or results without calls.
    Pairs,
    /// The id of a call.
    CallIds,
    /// The name of a function.
    ToolNames,
    /// The arguments of a call, which are no JSON object.
    Arguments,
    /// A thought signature is missing (Gemini).
    ThoughtSignature,
    /// Reasoning must come back.
    EchoReasoning,
    /// A user's message follows a result.
    UserAfterTool,
    /// A system message that is not the first message.
    LateSystem,
    /// There is no system role.
    NoSystemRole,
    /// Roles must alternate.
    Alternate,
    /// There is no user's message.
    NoUser,
    /// A message without content.
    EmptyTurn,
    /// The assistant's words at the end.
    Prefill,
    /// A format together with tools.
    FormatWithTools,
    /// The root of a schema is no object.
    SchemaRoot,
    /// The word "JSON" is missing.
    JsonWord,
    /// The model only streams.
    OnlyStreams,
    /// Marks of the prompt cache.
    CacheMarks,
    /// The schema of a tool, or the grammar made of it.
    ToolSchema,
    /// The format of the response.
    Format,
    /// Tools that take free text.
    CustomTools,
}

/// What a sentence speaks of besides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topic {
    /// A member may not be sent, not with another, or not with this value.
    Denial,
    /// A member is not taken, whatever its value.
    Unsupported,
    /// Two members exclude each other.
    Exclusion,
    /// A value is out of its range, which only the client can change.
    OutOfRange,
    /// A format is not known at all, whatever the schema says.
    FormatType,
    /// A client's own schema is wrong.
    BadSchema,
    /// Reasoning.
    Reasoning,
    /// Switches of a continuation.
    Continuation,
    /// The limit of generated tokens.
    Limit,
    /// The size of the context window stands behind these.
    Window,
    /// A list is too long.
    Length,
    /// Stop sequences.
    Stop,
    /// The range of a value.
    Edge,
}

/// In the order in which they are tried: the first whose repair changes the request is taken.
const KINDS: &[Kind] = &[
    Kind::EffortWithTools,
    Kind::Pairs,
    Kind::CallIds,
    Kind::ToolNames,
    Kind::ThoughtSignature,
    Kind::EchoReasoning,
    Kind::UserAfterTool,
    Kind::LateSystem,
    Kind::NoSystemRole,
    Kind::Alternate,
    Kind::NoUser,
    Kind::EmptyTurn,
    Kind::Prefill,
    Kind::FormatWithTools,
    Kind::SchemaRoot,
    Kind::JsonWord,
    Kind::OnlyStreams,
    Kind::CacheMarks,
    Kind::Arguments,
    Kind::ToolSchema,
    Kind::Format,
    Kind::CustomTools,
];

/// How a kind or a topic is known.
#[derive(Debug, Default)]
struct Row {
    name: String,
    /// Ends of the blamed field's path, with digits and brackets left out.
    fields: Vec<String>,
    /// Phrases in lower case, any of which tells the kind; the pieces between `&` must all be there.
    phrases: Vec<String>,
}

static ROWS: LazyLock<Vec<Row>> = LazyLock::new(|| parse_rows(include_str!("rejections.txt")));

fn parse_rows(text: &str) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            rows.push(Row { name: name.to_owned(), ..Row::default() });
        } else if let Some(row) = rows.last_mut() {
            match line.strip_prefix("field ") {
                Some(field) => row.fields.push(field.to_owned()),
                None => row.phrases.push(line.to_owned()),
            }
        }
    }
    rows
}

fn row(name: &str) -> Option<&'static Row> {
    ROWS.iter().find(|row| row.name == name)
}

/// The kinds that a rejection may be of, in the order in which they are tried.
pub(super) fn find(details: &ErrorDetails) -> Vec<Kind> {
    let text = plain_text(details);
    let is_met = |kind: &&Kind| {
        let row = row(&format!("{kind:?}"));
        row.is_some_and(|row| row.blames(details) || matches_any(&text, &row.phrases))
    };
    KINDS.iter().filter(is_met).copied().collect()
}

/// True if a rejection is about the arguments of a call.
pub(super) fn blames_arguments(details: &ErrorDetails) -> bool {
    find(details).contains(&Kind::Arguments)
}

/// True if the message of a rejection says that a system message is not taken, or not at its place.
pub fn refuses_system(message: &str) -> bool {
    let details = ErrorDetails { message: message.to_owned(), ..ErrorDetails::default() };
    matches!(find(&details).first(), Some(Kind::LateSystem | Kind::NoSystemRole))
}

/// The text of a rejection in lower case, without the lines of a trace, whose paths may hold any word.
pub(super) fn plain_text(details: &ErrorDetails) -> String {
    let is_trace = |line: &&str| line.trim_start().starts_with("File \"");
    let lines: Vec<&str> = details.message.lines().filter(|line| !is_trace(line)).collect();
    lines.join("\n").to_ascii_lowercase()
}

/// True if a text in lower case speaks of a topic.
pub(super) fn says(text: &str, topic: Topic) -> bool {
    matches_any(text, phrases(topic))
}

/// The phrases of a topic.
pub(super) fn phrases(topic: Topic) -> &'static [String] {
    row(&format!("{topic:?}")).map_or(&[], |row| &row.phrases)
}

/// True if a word is one of those by which rejections are known, and so none of a conversation's.
pub(super) fn is_vocabulary(word: &str) -> bool {
    static WORDS: LazyLock<HashSet<String>> = LazyLock::new(|| {
        let phrases = ROWS.iter().flat_map(|row| row.phrases.iter().chain(&row.fields));
        let is_split = |c: char| !c.is_ascii_alphanumeric() && c != '_';
        phrases.flat_map(|phrase| phrase.split(is_split)).map(str::to_owned).collect()
    });
    let mut chars = word.chars();
    // A capital at the beginning of a sentence, but no word in capitals.
    let first = chars.next().map(|first| first.to_ascii_lowercase());
    WORDS.contains(&first.into_iter().chain(chars).collect::<String>())
}

impl Row {
    /// True if the blamed field tells the kind.
    fn blames(&self, details: &ErrorDetails) -> bool {
        let paths = details.param.iter().chain(details.field_errors.iter().map(|it| &it.path));
        paths.map(|path| bare_path(path)).any(|path| {
            self.fields.iter().any(|field| {
                path.strip_suffix(field.as_str())
                    .is_some_and(|it| it.is_empty() || it.ends_with('.'))
                    || path.contains(&format!("{field}."))
            })
        })
    }
}

/// `messages[0].tool_calls.1.id` as `messages.tool_calls.id`.
pub(super) fn bare_path(path: &str) -> String {
    let parts = path.split(['.', '[', ']', '/']);
    let names = parts.filter(|part| !part.is_empty() && !part.bytes().all(|b| b.is_ascii_digit()));
    names.collect::<Vec<_>>().join(".").to_ascii_lowercase()
}

/// True if a text in lower case has all pieces of one of the phrases.
fn matches_any(text: &str, phrases: &[String]) -> bool {
    phrases.iter().any(|phrase| phrase.split('&').all(|piece| text.contains(piece)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(message: &str, param: &str, expected: Kind) {
        let details = ErrorDetails {
            message: message.to_owned(),
            param: (!param.is_empty()).then(|| param.to_owned()),
            ..ErrorDetails::default()
        };
        assert_eq!(find(&details).first(), Some(&expected), "{message}");
    }

    #[test]
    fn each_kind_and_each_topic_has_a_row() {
        let topics = [
            "Denial",
            "Unsupported",
            "Exclusion",
            "OutOfRange",
            "FormatType",
            "BadSchema",
            "Reasoning",
            "Continuation",
            "Limit",
            "Window",
            "Length",
            "Stop",
            "Edge",
        ];
        let kinds = KINDS.iter().map(|kind| format!("{kind:?}"));
        let expected: Vec<String> = kinds.chain(topics.map(str::to_owned)).collect();
        let found: Vec<&String> = ROWS.iter().map(|row| &row.name).collect();
        assert_eq!(found, expected.iter().collect::<Vec<_>>());
        for row in ROWS.iter() {
            assert!(!row.phrases.is_empty(), "{}", row.name);
            assert!(row.phrases.iter().all(|it| *it == it.to_ascii_lowercase()), "{}", row.name);
        }
        assert!(is_vocabulary("alternate") && !is_vocabulary("secret"));
    }

    #[test]
    fn a_kind_is_known_by_the_field_that_is_blamed() {
        check("too long", "messages[3].tool_calls[0].id", Kind::CallIds);
        check("does not match", "tools[2].function.name", Kind::ToolNames);
        check("no", "tools.0.function.parameters", Kind::ToolSchema);
        check("no", "tools[0].function.parameters.properties.x", Kind::ToolSchema);
        check("bad", "response_format.json_schema", Kind::Format);
    }

    #[test]
    fn a_kind_is_known_by_its_words() {
        check(
            "Error: Jinja Exception: System message must be at the beginning.",
            "",
            Kind::LateSystem,
        );
        let roles = "Conversation roles must alternate user/assistant/user/assistant/...";
        check(roles, "", Kind::Alternate);
        check("Unexpected role 'user' after role 'tool'", "", Kind::UserAfterTool);
        check("No user query found in messages.", "", Kind::NoUser);
        let empty = "Assistant message must have either content or tool_calls, but not none.";
        check(empty, "", Kind::EmptyTurn);
        check(
            "Assistant response prefill is incompatible with enable_thinking.",
            "",
            Kind::Prefill,
        );
        let id = "Tool call id was x but must be a-z, A-Z, 0-9, with a length of 9.";
        check(id, "", Kind::CallIds);
        let pair = "An assistant message with 'tool_calls' must be followed by tool messages \
                    responding to each 'tool_call_id'.";
        check(pair, "messages", Kind::Pairs);
        let gemini = "Invalid JSON payload received. Unknown name \"$schema\" at \
                      'tools[0].function_declarations[0].parameters': Cannot find field.";
        check(gemini, "", Kind::ToolSchema);
        check("Failed to initialize samplers: failed to parse grammar", "", Kind::ToolSchema);
        let llama_cpp = "Unable to generate parser for this template. Automatic parser generation \
                         failed: JSON schema error at #/properties/city: unrecognized type city";
        check(llama_cpp, "", Kind::ToolSchema);
        let through_litellm = "litellm.BadRequestError: OpenAIException - Unable to generate parser for \
                               this template. Automatic parser generation failed: \n------------\nWhile \
                               executing CallExpression at line 1, column 115 in source:\n...\n\
                               Error: Jinja Exception: System message must be at the beginning.\n\n\
                               LiteLLM: model group 'm' failed with the error above. No fallback was \
                               attempted.";
        check(through_litellm, "", Kind::LateSystem);
        let llama_cpp = "Failed to parse tool call arguments as JSON: [json.exception.parse_error.101] \
                         parse error at line 1, column 4: syntax error while parsing object key";
        for text in [
            llama_cpp,
            "Expecting value: line 1 column 1 (char 0)",
            "can only concatenate str (not \"dict\") to str",
            "'str object' has no attribute 'items'",
            "Can only get item pairs from a mapping.",
            "Invalid JSON in tool call arguments",
            "invalid tool call arguments",
            "Tool call arguments must be valid JSON",
            "messages.1.content.0.tool_use.input: Input should be a valid dictionary",
            "The format of the value at messages.1.content.0.toolUse.input is invalid. Provide a json \
             object for the field and try again.",
            "Invalid value at 'contents[1].parts[0].function_call.args' \
             (type.googleapis.com/google.protobuf.Struct)",
            "EOF while parsing an object at line 1 column 3",
            "unexpected end of JSON input",
        ] {
            check(text, "", Kind::Arguments);
        }
        check("no", "messages[1].tool_calls[0].function.arguments", Kind::Arguments);
        check("no", "input[2].arguments", Kind::Arguments);
        let signature = "Function call is missing a thought_signature in functionCall parts.";
        check(signature, "", Kind::ThoughtSignature);
        let mime = "Function calling with a response mime type: 'application/json' is unsupported";
        check(mime, "", Kind::FormatWithTools);
        let root = "Invalid schema for response_format 'x': schema must be a JSON Schema of 'type: \
                    \"object\"', got 'type: \"array\"'.";
        check(root, "response_format", Kind::SchemaRoot);
        let stream = "This model only support stream mode, please enable the stream parameter to \
                      access the model.";
        check(stream, "", Kind::OnlyStreams);
        assert_eq!(find(&ErrorDetails::default()), []);
    }
}

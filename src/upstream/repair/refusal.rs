//! Finds the members that a rejection names, in the sentences of all backends.
//!
//! Never looks at what was sent. Invariant: a rejection that merely mentions a member, such as one of a
//! value out of range, names none: only the sentences below do, and three codes.

use crate::backends::errors::ErrorDetails;

/// One member that a rejection names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct RejectedField {
    /// The member as the upstream wrote it, such as `top_k` or `messages[0].role`.
    pub path: String,
    /// The name to use instead.
    pub replacement: Option<String>,
    /// The accepted values, if they are listed.
    pub allowed_values: Vec<String>,
}

/// Codes with which `param` names the member, whatever the message says.
const FIELD_ERROR_CODES: &[&str] =
    &["unsupported_parameter", "unknown_parameter", "unsupported_value"];

/// How a name is written behind the words of a sentence.
#[derive(Clone, Copy, PartialEq)]
enum NameFormat {
    /// In quotes of any kind.
    Quoted,
    /// Several names with commas between them, with or without quotes.
    List,
    /// A bare word.
    Word,
}

/// Words before a name, in lower case.
const NAME_PREFIXES: &[(&str, NameFormat)] = &[
    ("unsupported parameter: ", NameFormat::Quoted),
    ("unsupported value: ", NameFormat::Quoted),
    ("unrecognized request argument supplied: ", NameFormat::List),
    ("unrecognized request arguments supplied: ", NameFormat::List),
    ("unknown parameter: ", NameFormat::Quoted),
    ("unknown name ", NameFormat::Quoted),
    ("unknown field ", NameFormat::Quoted),
    ("argument not supported on this model: ", NameFormat::Word),
    ("does not support parameter ", NameFormat::Word),
    ("does not support parameters: ", NameFormat::List),
    ("doesn't support parameters: ", NameFormat::List),
    ("property ", NameFormat::Quoted),
];

/// Words behind a name, in lower case.
const NAME_SUFFIXES: &[&str] = &[
    " is not supported with this model",
    " : value is not one of the allowed values",
    ": extra inputs are not permitted",
    ": extra fields not permitted",
];

/// The members that a rejection names, each once.
pub(super) fn find_rejected_fields(details: &ErrorDetails) -> Vec<RejectedField> {
    let mut paths: Vec<String> = Vec::new();
    if FIELD_ERROR_CODES.iter().any(|code| details.code.as_deref() == Some(code)) {
        paths.extend(details.param.clone());
    }
    let extra =
        details.field_errors.iter().filter(|it| it.kind.as_deref() == Some("extra_forbidden"));
    paths.extend(extra.map(|fault| fault.path.clone()));
    let text = details.message.as_str();
    let lower = text.to_ascii_lowercase();
    for (words, form) in NAME_PREFIXES {
        for (at, _) in lower.match_indices(words) {
            paths.extend(parse_leading_names(&text[at + words.len()..], *form));
        }
    }
    for words in NAME_SUFFIXES {
        for (at, _) in lower.match_indices(words) {
            paths.extend(parse_trailing_name(&text[..at]));
        }
    }
    let mut out: Vec<RejectedField> = Vec::new();
    for path in paths.into_iter().map(|path| to_snake_case(&path)) {
        if !path.is_empty() && out.iter().all(|known| known.path != path) {
            out.push(RejectedField { path, ..RejectedField::default() });
        }
    }
    if let [only] = out.as_mut_slice() {
        only.replacement = find_replacement(text, &lower);
        only.allowed_values = find_allowed_values(text, &lower);
    }
    out
}

/// The names at the beginning of a text.
fn parse_leading_names(text: &str, form: NameFormat) -> Vec<String> {
    match form {
        NameFormat::Word => vec![parse_word(text).to_owned()],
        NameFormat::Quoted => parse_quoted(text).map(str::to_owned).into_iter().collect(),
        NameFormat::List => {
            let list = text.trim_start_matches('[');
            let end = list.find([']', '\n']).unwrap_or(list.len());
            let names = list[..end].split(',').map(|name| {
                let name = name.trim();
                parse_quoted(name).unwrap_or_else(|| parse_word(name)).to_owned()
            });
            names.collect()
        }
    }
}

/// The name at the end of a text, with or without quotes.
fn parse_trailing_name(text: &str) -> Option<String> {
    let quotes = ['\'', '"', '`'];
    let bare = text.trim_end_matches(quotes);
    let start =
        bare.rfind(|c: char| !is_name_char(c) || quotes.contains(&c)).map_or(0, |at| at + 1);
    // The character before it may be longer than a byte, and then there is no name.
    let name = bare.get(start..)?;
    (!name.is_empty()).then(|| name.to_owned())
}

/// The quoted word at the beginning of a text.
fn parse_quoted(text: &str) -> Option<&str> {
    let quote = text.chars().next().filter(|c| ['\'', '"', '`'].contains(c))?;
    let inner = &text[1..];
    Some(&inner[..inner.find(quote)?])
}

/// The word at the beginning of a text, without the full stop behind it.
fn parse_word(text: &str) -> &str {
    let end = text.find(|c: char| !is_name_char(c)).unwrap_or(text.len());
    text[..end].trim_end_matches('.')
}

fn is_name_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || "_.[]-".contains(c)
}

/// `Use 'x' instead`.
fn find_replacement(text: &str, lower: &str) -> Option<String> {
    let at = lower.find("use ")? + "use ".len();
    let name = parse_quoted(text.get(at..)?)?;
    lower[at..].contains("instead").then(|| name.to_owned())
}

/// The quoted words behind "supported values" or "allowed values".
fn find_allowed_values(text: &str, lower: &str) -> Vec<String> {
    let begin = ["supported values", "allowed values", "must be one of", "should be one of"]
        .iter()
        .find_map(|words| lower.find(words));
    let Some(begin) = begin else { return Vec::new() };
    let mut out = Vec::new();
    let mut rest = &text[begin..];
    while let Some(at) = rest.find(['\'', '"', '`']) {
        rest = &rest[at..];
        let Some(value) = parse_quoted(rest) else { break };
        out.push(value.to_owned());
        rest = &rest[value.len() + 2..];
    }
    out
}

/// `presencePenalty` as `presence_penalty`: xAI writes names in camel case.
fn to_snake_case(name: &str) -> String {
    let mut out = String::with_capacity(name.len() + 4);
    for c in name.chars() {
        if c.is_ascii_uppercase() && !out.is_empty() {
            out.push('_');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backends::errors;

    /// What is read from an error's body, each as `path`, `path>instead` or `path=allowed|...`.
    fn read(body: &str) -> String {
        let details = errors::parse_details(body.as_bytes()).expect("an error");
        let show = |named: RejectedField| {
            let instead = named.replacement.map(|name| format!(">{name}")).unwrap_or_default();
            let allowed = named.allowed_values.join("|");
            let allowed = if allowed.is_empty() { allowed } else { format!("={allowed}") };
            format!("{}{instead}{allowed}", named.path)
        };
        find_rejected_fields(&details).into_iter().map(show).collect::<Vec<_>>().join(" ")
    }

    /// An error of OpenAI's shape.
    fn openai(message: &str, param: &str, code: &str) -> String {
        let text = |text: &str| if text.is_empty() { None } else { Some(text.to_owned()) };
        serde_json::json!({"error": {"message": message, "type": "invalid_request_error",
            "param": text(param), "code": text(code)}})
        .to_string()
    }

    #[test]
    fn openai_names_one_member_in_several_ways() {
        let check = |message: &str, param: &str, code: &str, expected: &str| {
            assert_eq!(read(&openai(message, param, code)), expected, "{message}");
        };
        let limit = "Unsupported parameter: 'max_tokens' is not supported with this model. Use \
                     'max_completion_tokens' instead.";
        let renamed = "max_tokens>max_completion_tokens";
        check(limit, "max_tokens", "unsupported_parameter", renamed);
        // A gateway may keep the sentence and lose the rest.
        check(limit, "", "invalid_request_body", renamed);
        let heat = "Unsupported value: 'temperature' does not support 0.7 with this model. Only the \
                    default (1) value is supported.";
        check(heat, "temperature", "unsupported_value", "temperature");
        check("Unrecognized request argument supplied: top_k", "", "", "top_k");
        check("Unrecognized request arguments supplied: top_k, min_p", "", "", "top_k min_p");
        check("Unknown parameter: 'min_p'.", "min_p", "unknown_parameter", "min_p");
        let role =
            "Unsupported value: 'messages[0].role' does not support 'system' with this model.";
        check(role, "messages[0].role", "unsupported_value", "messages[0].role");
        let effort = "Unsupported value: 'reasoning_effort' does not support 'minimal' with this \
                      model. Supported values are: 'low', 'medium', and 'high'.";
        let allowed = "reasoning_effort=low|medium|high";
        check(effort, "reasoning_effort", "unsupported_value", allowed);
    }

    #[test]
    fn others_have_words_of_their_own() {
        let check = |message: &str, expected: &str| {
            assert_eq!(read(&openai(message, "", "")), expected, "{message}");
        };
        check("property 'top_k' is unsupported", "top_k");
        check("property 'top_k' is unsupported, did you mean 'top_p'?", "top_k");
        let values =
            "'reasoning_effort' : value is not one of the allowed values [`none`,`default`]";
        check(values, "reasoning_effort=none|default");
        check("`logprobs` is not supported with this model", "logprobs");
        check("Argument not supported on this model: presencePenalty", "presence_penalty");
        check("Model grok-4 does not support parameter reasoningEffort.", "reasoning_effort");
        let litellm = "litellm.UnsupportedParamsError: bedrock does not support parameters: ['top_k', \
                       'seed'], for model=x. To drop these, set `litellm.drop_params=True`";
        check(litellm, "top_k seed");
    }

    #[test]
    fn lists_of_gemini_and_of_fastapi_name_several() {
        let gemini = r#"[{"error":{"code":400,"message":"Invalid JSON payload received. Unknown name \"top_k\": Cannot find field.\nInvalid JSON payload received. Unknown name \"frequency_penalty\": Cannot find field.","status":"INVALID_ARGUMENT"}}]"#;
        assert_eq!(read(gemini), "top_k frequency_penalty");
        let fastapi = r#"{"detail":[
            {"type":"extra_forbidden","loc":["body","top_k"],"msg":"Extra inputs are not permitted"},
            {"type":"extra_forbidden","loc":["body","min_p"],"msg":"Extra inputs are not permitted"}]}"#;
        assert_eq!(read(fastapi), "top_k min_p");
        let one = r#"{"detail":[{"type":"extra_forbidden","loc":["body","seed"],"msg":"no"}]}"#;
        assert_eq!(read(one), "seed");
    }

    #[test]
    fn what_only_mentions_a_member_names_none() {
        let check = |message: &str, param: &str, code: &str| {
            assert_eq!(read(&openai(message, param, code)), "", "{message}");
        };
        let above = "Invalid 'temperature': decimal above maximum value. Expected a value <= 2, but \
                     got 3 instead.";
        check(above, "temperature", "decimal_above_max_value");
        check("temperature must be between 0 and 2", "temperature", "");
        let long = "This model's maximum context length is 8 tokens.";
        check(long, "messages", "context_length_exceeded");
        check("Incorrect API key provided", "", "invalid_api_key");
        check("the property of a thing", "", "");
        check("is not supported with this model", "", "");
        check("Unknown parameter: '", "", "");
        check("é is not supported with this model", "", "");
    }

    #[test]
    fn no_sentence_cut_anywhere_is_a_failure() {
        let text = "Unsupported parameter: 'é' Use 'x' instead. property `a` supported values 'b', \
                    \"c\" does not support parameters: ['d', \"ü\"] x : value is not one of the \
                    allowed values [`y`";
        for end in (0..=text.len()).filter(|&at| text.is_char_boundary(at)) {
            for begin in (0..=end).filter(|&at| text.is_char_boundary(at)) {
                let message = text[begin..end].to_owned();
                find_rejected_fields(&ErrorDetails { message, ..ErrorDetails::default() });
            }
        }
    }
}

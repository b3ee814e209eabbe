//! What the log says of a repair.
//!
//! Never names a word of the conversation: only members, values of parameters and numbers.

use std::fmt;

use super::repairs::{EFFORT_FIELD, Repair};

/// The part of a rejection that says why: llama.cpp names what it was doing, and the source of a template,
/// before that.
pub(super) fn find_reason(message: &str) -> &str {
    let behind = |mark: &str| message.rfind(mark).map(|at| &message[at + mark.len()..]);
    behind("\nError: ").or_else(|| behind("generation failed: ")).unwrap_or(message)
}

impl fmt::Display for Repair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Omit(member) => return write!(f, "{member} removed"),
            Self::OmitBeside { member, other } => {
                return write!(f, "{member} removed beside {other}");
            }
            Self::OmitForeign => "members that OpenAI's API does not have removed",
            Self::Rename { from, to } => return write!(f, "{from} renamed to {to}"),
            Self::SetEffort { from, to } => {
                return write!(f, "{EFFORT_FIELD} changed from {from} to {to}");
            }
            Self::DisableEffortWithTools => {
                "reasoning_effort set to none, because the request has tools"
            }
            Self::LowerLimit { to, .. } => return write!(f, "token limit lowered to {to}"),
            Self::OmitInner(place) => return write!(f, "{place} removed"),
            Self::RaiseLimit(to) => return write!(f, "token limit raised to {to}"),
            Self::LimitStops(most) => {
                return write!(f, "all but {most} of the stop sequences removed");
            }
            Self::SetToNearest { member, value } => {
                return write!(f, "{member} changed to {value}");
            }
            Self::ContinueFinalMessage => "continue_final_message added",
            Self::DisableThinkingForPrefill => "reasoning turned off to continue the last message",
            Self::AskToGoOn => "request to continue the last message added",
            Self::UseDeveloperRole => "system role sent as developer",
            Self::FoldSystemIntoUser => "system prompt moved into the first user message",
            Self::SystemFirst => {
                "system messages joined in front, later ones sent as user messages"
            }
            Self::MergeNeighbours => "neighbouring messages of one role joined",
            Self::SeparateResults => "short assistant message put between a result and the user",
            Self::AddUser => "user message added",
            Self::DropEmptyTurns => "messages without content removed",
            Self::ShortenIds => "call ids shortened",
            Self::CustomTools => "free-text tools sent as functions",
            Self::LegalNames => "names of functions replaced",
            Self::MendArguments => "arguments of calls made JSON objects",
            Self::PairCalls => "calls and results paired",
            Self::ReduceSchemas => "schemas reduced",
            Self::EchoReasoning => "reasoning sent with its calls",
            Self::DropReasoning => "reasoning removed from the history",
            Self::SkipThoughtSignatures => "missing thought signatures replaced",
            Self::DropCacheMarks => "cache_control removed",
            Self::DropStrict => "\"strict\" removed from response_format",
            Self::ObjectToSchema => "json_object replaced by a json_schema that allows any object",
            Self::SchemaToPrompt => "json_schema replaced by an instruction in the prompt",
            Self::FormatToPrompt => "response_format replaced by an instruction beside the tools",
            Self::WrapRoot => "schema wrapped in an object",
            Self::MentionJson => "instruction to answer in JSON added",
            Self::Stream => "requested as a stream",
            Self::FitWindow { .. } => "oldest messages dropped",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_stands_behind_what_the_server_was_doing() {
        let raised = "Unable to generate parser for this template. Automatic parser generation failed: \
                      \n------------\nWhile executing CallExpression at line 1, column 115 in source:\n\
                      ...{{- raise_exception(\"No user query...\n   ^\n\
                      Error: Jinja Exception: No user query found in messages.";
        assert_eq!(find_reason(raised), "Jinja Exception: No user query found in messages.");
        let schema = "Unable to generate parser for this template. Automatic parser generation failed: \
                      JSON schema error at #/properties/x: unrecognized type y";
        assert_eq!(find_reason(schema), "JSON schema error at #/properties/x: unrecognized type y");
        assert_eq!(find_reason("Failed to load: x"), "Failed to load: x");
    }
}

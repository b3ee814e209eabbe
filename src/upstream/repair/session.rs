//! The repairs of one request, from the first rejection to the last.
//!
//! Told each rejection, it changes the document or gives up. Pure. Invariant: a rejected body is never
//! sent again unchanged, each repair is made once, and the number of attempts is bounded.

use std::fmt;

use super::context;
use super::describe::find_reason;
use super::document::Document;
use super::kinds;
use super::memory::{Known, describe_group};
use super::plainest::{self, Group};
use super::plan;
use super::plan::Planned;
use super::repairs::{Repair, Scope, hash_schemas};
use super::values;
use crate::api::wire::digest::sha256_hex;
use crate::backends::errors;
use crate::backends::errors::ErrorDetails;

/// The most rounds of repairs by rules. Most upstreams name one member at a time.
const MAX_ROUNDS: u32 = 4;

/// The most characters of a rejection in the log.
const MAX_REASON_CHARS: usize = 120;

/// The bytes of a rejection that are read for it.
const MAX_READ_BYTES: usize = 1000;

/// Words up to this length say nothing of a conversation.
const MAX_COMMON_CHARS: usize = 3;

/// The most attempts at a request, the first one included.
pub const MAX_ATTEMPTS: usize = 6;

/// What is said of a request that goes to `responses`.
pub const RESPONSES_ROUTE: &str = "sent to /responses";

/// What changed for the next attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// These repairs were made.
    Repairs(Vec<Repair>),
    /// The oldest messages went.
    Truncated(usize),
    /// The request has its plainest form; these groups changed something.
    Plainest(Vec<Group>),
    /// The group that was left out is back.
    Restored(Group),
    /// A whole response in place of a stream.
    Whole,
    /// The model has no other route than `responses`.
    Responses,
}

impl Change {
    /// The changes that may be remembered, each in the words of the log.
    pub fn descriptions(&self) -> Vec<String> {
        match self {
            Self::Repairs(repairs) => repairs.iter().map(ToString::to_string).collect(),
            Self::Plainest(groups) => groups.iter().map(|group| describe_group(*group)).collect(),
            Self::Truncated(_) => vec![Repair::FitWindow { bytes: 0 }.to_string()],
            Self::Responses => vec![RESPONSES_ROUTE.to_owned()],
            Self::Restored(_) | Self::Whole => Vec::new(),
        }
    }

    /// The kinds of change, for the metrics.
    pub fn kinds(&self) -> Vec<&'static str> {
        match self {
            Self::Repairs(repairs) => repairs.iter().map(Repair::kind).collect(),
            Self::Truncated(_) => vec!["truncated"],
            Self::Plainest(_) => vec!["plainest_form"],
            Self::Restored(_) => vec!["restored"],
            Self::Whole => vec!["whole"],
            Self::Responses => vec!["responses_route"],
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let join = |texts: Vec<String>| texts.join(", ");
        match self {
            Self::Repairs(repairs) => {
                f.write_str(&join(repairs.iter().map(ToString::to_string).collect()))
            }
            Self::Truncated(count) => write!(f, "{count} of the oldest messages dropped"),
            Self::Plainest(groups) => {
                let groups = groups.iter().map(|group| group.describe().to_owned()).collect();
                write!(f, "plainest form ({} changed)", join(groups))
            }
            Self::Restored(group) => write!(f, "{} as the client sent it", group.describe()),
            Self::Whole => f.write_str("requested without streaming"),
            Self::Responses => f.write_str(RESPONSES_ROUTE),
        }
    }
}

/// Repairs, groups, and whether a request without a group passed.
pub type Learnt = (Vec<Planned>, Vec<(Group, Scope)>, Option<(Group, bool)>);

/// The state of one request.
#[derive(Debug, Default)]
pub struct Session {
    /// All repairs so far; none is made twice.
    tried: Vec<Repair>,
    /// The repairs in force, without those that a later one took back.
    made: Vec<Planned>,
    rounds: u32,
    changes: usize,
    truncations: u32,
    /// The groups of the plainest form, once the request has it.
    groups: Option<Vec<Group>>,
    /// True once the rejection of the plainest form was read.
    is_refined: bool,
    /// The hash of the client's own schemas.
    schemas: u64,
    /// True if the client's request has a value that no upstream takes: nothing is learnt from it.
    is_malformed: bool,
    left_out: Option<Group>,
    experiment: Option<(Group, bool)>,
    first_text: Option<String>,
    /// True while the request is a stream because its whole response would take long.
    is_own_stream: bool,
    /// True once a stream was rejected that a whole response can replace.
    is_stream_rejected: bool,
    /// True as long as no other rejection has followed one that did not speak of streams.
    is_stream_guess: bool,
    /// Hashes of the bodies that were rejected.
    rejected: Vec<u64>,
}

impl Session {
    /// Makes the changes that the model needed before.
    pub fn begin(known: &Known, document: &mut Document<'_>) -> Self {
        let session = Self { left_out: known.left_out, ..Self::new(document) };
        let is_meant =
            |scope: &Scope| *scope == Scope::Model || *scope == Scope::Schemas(session.schemas);
        for (repair, _) in known.repairs.iter().filter(|(_, scope)| is_meant(scope)) {
            repair.apply(document);
        }
        let is_known =
            |group: &&Group| known.groups.iter().any(|(it, scope)| it == *group && is_meant(scope));
        for group in plainest::ORDER.iter().filter(is_known) {
            group.apply(document, "");
        }
        session
    }

    /// A session of a request about whose model nothing is known.
    pub fn new(document: &Document<'_>) -> Self {
        let (schemas, is_malformed) = (hash_schemas(document), values::is_malformed(document));
        Self { schemas, is_malformed, ..Self::default() }
    }

    /// Asks for a stream, because a whole response would take long.
    pub fn prefer_stream(&mut self, document: &mut Document<'_>) {
        self.is_own_stream |= document.use_stream();
    }

    /// True if a stream was rejected whose response may come whole.
    pub fn is_stream_rejected(&self) -> bool {
        self.is_stream_rejected
    }

    /// Changes the document after a rejection; `None` if nothing can be done. `is_hopeless` tells of a
    /// rejection's hash whether the plainest form failed lately.
    pub fn next(
        &mut self,
        details: &ErrorDetails,
        document: &mut Document<'_>,
        is_hopeless: impl Fn(u64) -> bool,
    ) -> Option<Change> {
        if self.changes + 1 >= MAX_ATTEMPTS {
            return None;
        }
        if std::mem::take(&mut self.is_stream_guess) {
            self.is_stream_rejected = false;
        }
        self.rejected.push(hash_document(document));
        // Two repairs may undo each other.
        let change = (0..MAX_ATTEMPTS).find_map(|_| {
            let change = self.find_change(details, document, &is_hopeless);
            let is_new = || !self.rejected.contains(&hash_document(document));
            (change.is_none() || is_new()).then_some(change)
        })??;
        self.changes += 1;
        document.is_last_resort |= self.groups.is_some();
        Some(change)
    }

    fn find_change(
        &mut self,
        details: &ErrorDetails,
        document: &mut Document<'_>,
        is_hopeless: &impl Fn(u64) -> bool,
    ) -> Option<Change> {
        if errors::names_responses_route(details) && use_responses(document) {
            return Some(Change::Responses);
        }
        let is_replaceable = document.route.rewrites_response && document.is_stream();
        if (self.is_own_stream || is_replaceable) && plan::is_about_stream(details) {
            return Some(self.take_back_stream(document, false));
        }
        self.first_text.get_or_insert_with(|| details.message.clone());
        if let Some(group) = self.left_out.take() {
            self.experiment = Some((group, false));
            if group.apply(document, "") {
                return Some(Change::Restored(group));
            }
        }
        if errors::is_context_overflow(details)
            && let Some(change) = self.fit_context(details, document)
        {
            return Some(change);
        }
        let is_plain = self.groups.is_some();
        if is_plain && std::mem::replace(&mut self.is_refined, true) {
            return None;
        }
        // Before what is final: servers repeat the arguments, which may hold any word.
        if kinds::blames_arguments(details) && Repair::MendArguments.apply(document) {
            self.made.push((Repair::MendArguments, Scope::Model));
            return Some(Change::Repairs(vec![Repair::MendArguments]));
        }
        let text = details.message.to_ascii_lowercase();
        if let Some(repair) = values::plan_raised_limit(details, &text, document)
            && repair.apply(document)
        {
            self.made.push((repair.clone(), Scope::Model));
            return Some(Change::Repairs(vec![repair]));
        }
        if errors::is_final(details) || errors::is_context_overflow(details) {
            return None;
        }
        if self.rounds < MAX_ROUNDS || is_plain {
            let repairs = self.make_repairs(details, document);
            if !repairs.is_empty() {
                self.rounds += 1;
                return Some(Change::Repairs(repairs));
            }
        }
        // What the proxy itself has changed goes first.
        if self.is_own_stream {
            return Some(self.take_back_stream(document, true));
        }
        let may_simplify = !is_plain
            && document.route.is_chat
            && !plan::blames_fixed_member(details, document)
            && !is_hopeless(self.rejection_hash());
        if !may_simplify {
            return None;
        }
        let text = kinds::plain_text(details);
        let groups = plainest::apply_all(document, &text);
        self.groups = Some(groups.clone());
        (!groups.is_empty()).then_some(Change::Plainest(groups))
    }

    /// Asks for a whole response. If nothing said that the stream was at fault, only a request that passes
    /// then shows it.
    fn take_back_stream(&mut self, document: &mut Document<'_>, is_guess: bool) -> Change {
        self.is_stream_guess = is_guess;
        document.use_whole();
        document.rejects_streams = true;
        self.is_own_stream = false;
        self.is_stream_rejected = true;
        Change::Whole
    }

    /// Lowers the limit where the prompt fits, or drops the oldest turns where it does not.
    fn fit_context(
        &mut self,
        details: &ErrorDetails,
        document: &mut Document<'_>,
    ) -> Option<Change> {
        let repairs = if self.rounds < MAX_ROUNDS {
            self.make_repairs(details, document)
        } else {
            Vec::new()
        };
        if !repairs.is_empty() {
            self.rounds += 1;
            return Some(Change::Repairs(repairs));
        }
        if !document.route.may_truncate || self.truncations >= context::MAX_ATTEMPTS {
            return None;
        }
        self.truncations += 1;
        let text = kinds::plain_text(details);
        let (dropped, room) = context::drop_oldest(document, &text);
        if let Some(bytes) = room {
            let repair = Repair::FitWindow { bytes };
            self.made.retain(|(known, _)| !repair.is_inverse_of(known));
            self.made.push((repair, Scope::Model));
        }
        (dropped > 0).then_some(Change::Truncated(dropped))
    }

    /// Makes the first list of repairs that changes something.
    fn make_repairs(&mut self, details: &ErrorDetails, document: &mut Document<'_>) -> Vec<Repair> {
        for planned in plan::plan(details, document) {
            let mut made = Vec::new();
            for (repair, scope) in planned {
                let (repair, scope) = self.replace_second_limit((repair, scope), document);
                if self.tried.contains(&repair) || !repair.apply(document) {
                    continue;
                }
                self.tried.push(repair.clone());
                let before = self.made.len();
                self.made.retain(|(known, _)| !repair.is_inverse_of(known));
                if self.made.len() == before {
                    self.made.push((repair.clone(), scope));
                }
                made.push(repair);
            }
            if !made.is_empty() {
                return made;
            }
        }
        Vec::new()
    }

    /// A limit that is rejected again is left to the upstream.
    fn replace_second_limit(&self, planned: Planned, document: &Document<'_>) -> Planned {
        let is_limit = |repair: &Repair| matches!(repair, Repair::LowerLimit { .. });
        if is_limit(&planned.0) && self.tried.iter().any(is_limit) {
            return plan::omit_limit(document);
        }
        planned
    }

    /// What to remember of a request that was accepted.
    pub fn learnt(&self) -> Learnt {
        let experiment = self.experiment.or(self.left_out.map(|group| (group, true)));
        if self.is_malformed {
            return (Vec::new(), Vec::new(), experiment);
        }
        if let Some(groups) = &self.groups {
            let scope = |group: &Group| match group {
                Group::Format | Group::Schemas => Scope::Schemas(self.schemas),
                _ => Scope::Model,
            };
            let groups = groups.iter().map(|group| (*group, scope(group)));
            return (Vec::new(), groups.collect(), experiment);
        }
        let reusable = self.made.iter().filter(|(_, scope)| *scope != Scope::Request);
        (reusable.cloned().collect(), Vec::new(), experiment)
    }

    /// True if the plainest form was rejected, too.
    pub fn has_failed_plainly(&self) -> bool {
        self.groups.is_some()
    }

    /// The hash of the first rejection.
    pub fn rejection_hash(&self) -> u64 {
        hash(self.first_text.as_deref().unwrap_or_default())
    }
}

/// Sends a chat to `responses`, which has no stop sequences; returns whether that is a change.
pub fn use_responses(document: &mut Document<'_>) -> bool {
    let changes = document.route.is_chat && !document.is_for_responses();
    if changes {
        document.use_responses();
        Repair::omit("stop").apply(document);
    }
    changes
}

/// The hash of what is sent, and where.
fn hash_document(document: &Document<'_>) -> u64 {
    hash(&document.to_json()) ^ u64::from(document.is_for_responses())
}

fn hash(text: &str) -> u64 {
    u64::from_str_radix(&sha256_hex(text.as_bytes())[..16], 16).unwrap_or_default()
}

/// A rejection for the log: at most `MAX_REASON_CHARS` characters in one line, without words of the
/// conversation, which some servers repeat.
pub fn describe_rejection(message: &str, document: &Document<'_>) -> String {
    let body = document.to_json();
    let message = find_reason(message);
    let is_word = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-');
    let mut out = String::new();
    let mut rest: &str = message.split_at_checked(MAX_READ_BYTES).map_or(message, |it| it.0);
    while let Some(start) = rest.find(is_word).filter(|_| out.chars().count() < MAX_REASON_CHARS) {
        let (before, word) = rest.split_at(start);
        let (word, after) = word.split_at(word.find(|c| !is_word(c)).unwrap_or(word.len()));
        out.push_str(before);
        let is_short = word.chars().count() <= MAX_COMMON_CHARS;
        let is_shown = is_short || !body.contains(word) || kinds::is_vocabulary(word);
        out.push_str(if is_shown { word } else { "…" });
        rest = after;
    }
    let in_one_line = |c: char| if c.is_control() { ' ' } else { c };
    out.chars().take(MAX_REASON_CHARS).map(in_one_line).collect()
}

//! Where keys, prompts and answers may appear: the program logs at level trace, answers every route and
//! goes through every failure, and then all that it has said is searched for marks.
//!
//! Each secret is a mark. Keys appear nowhere; prompts and answers appear only in responses to clients,
//! and in the log where `LOG_BODIES` asks for them; what defines a model may be in the state file.

mod attempts;
mod output;
mod stage;
mod start;

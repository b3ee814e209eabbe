//! Rules about the sources themselves.

mod dependencies;
mod messages;
mod rooms;
mod threats;
mod tidy;

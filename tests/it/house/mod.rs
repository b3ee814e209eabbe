//! Rules about the sources themselves.

mod dependencies;
mod rooms;
mod threats;
mod tidy;

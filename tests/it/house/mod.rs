//! Rules about the sources themselves.

mod dependencies;
mod tidy;

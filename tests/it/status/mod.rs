//! The status page: its files, and who may read what it shows.

mod page;

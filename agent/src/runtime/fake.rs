//! A runtime in memory whose calls can be made to fail.

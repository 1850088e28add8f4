//! Plans as text, and random histories that have to converge.

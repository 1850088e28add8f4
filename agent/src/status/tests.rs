//! Statuses in the situations that users see.

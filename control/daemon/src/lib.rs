//! Placeholder head; the room is described in docs/architecture.md.

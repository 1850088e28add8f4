//! Fewer pods of the same controller are better, so that replicas land on different nodes.

use super::super::Taken;

pub(super) fn score(taken: &Taken) -> i64 {
    100 / (1 + taken.siblings)
}

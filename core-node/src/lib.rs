//! core-node

//! Random histories: whatever is done, and wherever a process stops, no byte is lost and nothing is there in part.

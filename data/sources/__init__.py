"""Where text comes from: files of many formats, and corpora that have a name."""

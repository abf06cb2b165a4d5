pub(super) const FILE_MAX: usize = 1 << 20;

"""One compilation from the first look at the device to the record: the floor under the roof."""

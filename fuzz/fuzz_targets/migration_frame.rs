#![cfg_attr(fuzzing, no_main)]

rtc_fuzz::target!(migrate::fuzzing::migration_frame);

"""Jobs on a cluster, and machines before, during and after a study."""

package ingest_test

func child() int { return 0 }

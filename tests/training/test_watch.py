from privae.training.watch import Silent, Watch


def test_silence_is_a_watch_that_prints_nothing(capsys):
    watch: Watch = Silent()
    assert isinstance(watch, Watch)
    watch.phase("moments", 10)
    watch.advance(1, epsilon=0.5)
    watch.note("done")
    assert capsys.readouterr() == ("", "")

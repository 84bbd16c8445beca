"""A private fit of a table: synthetic rows, anomaly scores, embeddings and a guarantee. Runs in seconds."""

from privae import VAE
from privae.data.examples import load_table

frame, schema = load_table()  # UCI Adult, public; its schema declares every bound and category
vae = VAE(epsilon=1.0, delta=1e-5, rows=32_000).fit(frame, schema=schema)

print(vae.guarantee)
print(vae.sample(5, seed=0).to_string(index=False))

scores = vae.decision_function(frame.head(1000))  # higher = stranger
print("strangest of the first thousand rows: row", int(scores.argmax()))
print("embeddings:", vae.transform(frame.head(3)).shape)

vae.save("adult.privae")
print("read back:", VAE.load("adult.privae").guarantee.sentence())

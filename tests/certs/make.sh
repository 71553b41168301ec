#!/bin/sh
# Make the TEST certificates of this directory: ./make.sh (OpenSSL 3). They secure nothing; the keys are public.
# EC P-256 because its handshakes are fast; 2024 to 2124 so that no test fails by age or by a slow clock. The keys of the CAs are thrown away.
set -eu
cd "$(dirname "$0")"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# label FILE...: put a warning above the PEM blocks; readers of PEM skip text outside the blocks.
label() {
    for file; do
        { printf 'TEST certificate or key of gigachat_lite (%s), made by make.sh.\nIt is public, protects nothing and has no value: never trust it, never use it.\n\n' \
              "$(basename "$file")"; cat "$file"; } > "$work/labelled"
        cp "$work/labelled" "$file"
    done
}

new_key() { openssl ecparam -name prime256v1 -genkey -noout | openssl pkcs8 -topk8 -nocrypt -out "$1"; }

# issue CERT KEY COMMON_NAME EXTENSIONS CA CA_KEY [FROM UNTIL]: sign with a CA, or with KEY if CA is "self"; without
# FROM and UNTIL for a century.
issue() {
    printf '[ca]\ndefault_ca=d\n[d]\nnew_certs_dir=%s\ndatabase=%s/index\nrand_serial=yes\ndefault_md=sha256\npolicy=p\nunique_subject=no\n[p]\ncommonName=supplied\n[v3]\n%b\n' \
        "$work" "$work" "$4" > "$work/config"
    : > "$work/index"
    openssl req -new -key "$2" -subj "/CN=$3" -out "$work/request"
    if [ "$5" = self ]; then signer="-selfsign -keyfile $2"; else signer="-cert $5 -keyfile $6"; fi
    openssl ca -batch -notext -config "$work/config" -extensions v3 $signer -in "$work/request" -out "$1" \
        -startdate "${7:-20240101000000Z}" -enddate "${8:-21240101000000Z}" 2>> "$work/log" || { cat "$work/log"; exit 1; }
}

CA='basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\nsubjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid'
LEAF='basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\nsubjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid'
SERVER="$LEAF\nextendedKeyUsage=serverAuth"
LOCALHOST='subjectAltName=DNS:localhost,IP:127.0.0.1,IP:::1'

for name in server client expired wronghost selfsigned lax-server; do new_key $name.key; done
for name in ca other-ca lax-ca; do new_key "$work/$name.key"; done

issue ca.pem "$work/ca.key" 'gigachat_lite TEST CA' "$CA" self self
issue other-ca.pem "$work/other-ca.key" 'gigachat_lite unrelated TEST CA' "$CA" self self
openssl x509 -in ca.pem -outform DER -out ca.der

issue server.pem server.key localhost "$SERVER\n$LOCALHOST" ca.pem "$work/ca.key"
issue client.pem client.key 'TEST client' "$LEAF\nextendedKeyUsage=clientAuth" ca.pem "$work/ca.key"
issue wronghost.pem wronghost.key other.example "$SERVER\nsubjectAltName=DNS:other.example" ca.pem "$work/ca.key"
issue expired.pem expired.key localhost "$SERVER\n$LOCALHOST" ca.pem "$work/ca.key" 20200101000000Z 20210101000000Z

# Trusted by itself it must pass: a CA flag and keyCertSign, as VERIFY_X509_STRICT demands of every root.
issue selfsigned.pem selfsigned.key localhost \
    "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,digitalSignature,keyCertSign\nsubjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n$LOCALHOST" \
    self self

# A sloppy company CA: basicConstraints not critical, no key usage, no key identifiers. Good enough for every Python
# before 3.13, refused by the VERIFY_X509_STRICT of create_default_context() in 3.13.
NO_IDENTIFIERS='subjectKeyIdentifier=none\nauthorityKeyIdentifier=none'
issue lax-ca.pem "$work/lax-ca.key" 'gigachat_lite sloppy TEST CA' "basicConstraints=CA:TRUE\n$NO_IDENTIFIERS" self self
issue lax-server.pem lax-server.key localhost "$LOCALHOST\n$NO_IDENTIFIERS" lax-ca.pem "$work/lax-ca.key"

openssl pkcs8 -topk8 -in client.key -v2 aes-256-cbc -passout pass:test-passphrase -out client-encrypted.key
label *.pem *.key
cat client.pem client.key > client-both.pem
chmod 644 *.key  # as a checkout makes them

"""Words by which personal names are told from other capitalised words: small lists, written by hand.

Given names are the frequent ones of some twenty languages; they name nobody in particular. A name that is missing here
is only found beside a title or a word such as "portrait of".
"""

# ruff: noqa: RUF001 - names of several scripts

from __future__ import annotations

from typing import Final


def _words(text: str) -> frozenset[str]:
    return frozenset(text.casefold().split())


GIVEN_NAMES: Final = _words("""
Abdul Abdullah Abraham Aditi Ali Amara Amit Anil Barack Bashir Boubacar Chinedu Elon Fatoumata Folasade Hamid Ife Imani
Jamal Jomo Kamala Keanu Khadija Kofi Kwame Lakshmi Latoya Leila Mahmoud Malik Mamadou Narendra Neha Ousmane Rahul Rohit
Salma Sanjay Sipho Suresh Taylor Thabo Tyrone Vijay Winston Zainab
Aaron Abigail Adam Adrian Agnes Agnieszka Ahmed Ahmet Aidan Aiko Aileen Aisha Akira Alan Albert Alberto Alejandra
Alejandro Aleksander Aleksandra Alena Alessandra Alessandro Alex Alexander Alexandra Alexandre Alexei Alexey Alexis
Alfonso Alfred Alfredo Alice Alicia Alina Alison Allison Alma Alvaro Amanda Amelia Amelie Amina Amir Amy Ana Anastasia
Anders Andre Andrea Andreas Andrei Andrej Andres André Andrés Andrew Andrey Andrzej Angela Angelika Angelina Anika
Anita Anja Anjali Anke Ann Anna Anne Annette Annika Anouk Anthony Antje Antoine Anton Antonia Antonio António Anya
Arjun Arne Arnold Arthur Arturo Asha Ashley Astrid Audrey August Augusto Aurora Axel Ayşe Ayse Barbara Bart Bartosz
Beata Beatrice Beatriz Ben Benedikt Benjamin Bernard Bernd Bernhard Bertha Beth Betty Bianca Birgit Björn Bob Bogdan
Boris Brandon Brenda Brendan Brian Bridget Brigitte Britta Bruno Bryan Caitlin Camila Camille Carina Carl Carla Carlo
Carlos Carmen Carol Carolin Caroline Catalina Caterina Catherine Cathy Cecilia Cecile Cédric Cedric Celia Celine Cem
Cesar César Charles Charlie Chiara Chiyo Chloe Chloé Chris Christa Christiane Christina Christine Christoph Christophe
Christopher Claire Clara Clarissa Claude Claudia Claudio Claus Clemens Clément Colin Connor Conrad Constance Cornelia
Cristian Cristiano Cristina Curtis Cynthia Damian Damien Dan Dana Daniel Daniela Daniele Danielle Danny Daphne Darren
Dave David Deborah Debra Deepak Denis Denise Dennis Derek Diana Diane Didier Diego Dieter Dimitri Dirk Dmitri Dmitry
Dominic Dominik Dominique Don Donald Donna Doris Dorothea Dorothy Doug Douglas Dylan Eberhard Ed Eddie Edgar Edith
Eduard Eduardo Edward Edwin Eileen Ekaterina Elaine Eleanor Elena Eleni Elias Elif Elijah Elisa Elisabeth Elise
Elizabeth Elke Ella Ellen Elsa Elvira Emil Emilia Emilie Emilio Emily Emma Emmanuel Emre Enrico Enrique Eric Erica
Erich Erik Erika Erin Ernest Ernesto Ernst Esperanza Esteban Esther Ethan Eugene Eva Evan Evelyn Evgeny Ewa Fabian
Fabien Fabio Fatima Fatma Federica Federico Felicia Felicity Felix Ferdinand Fernanda Fernando Finn Fiona Flavia
Flavio Florian Francesca Francesco Francine Francis Francisco Franco François Françoise Franz Franziska Fred Freda
Frederic Frédéric Frederick Frederik Frida Frieda Friederike Friedrich Fritz Gabriel Gabriela Gabriele Gabrielle
Gareth Gary Gavin Geoffrey George Georges Gerald Gerard Gérard Gerhard Gerda Gert Gianluca Gianni Gilbert Giorgio
Giovanna Giovanni Gisela Giulia Giuseppe Gloria Gordon Graham Greg Gregor Gregory Greta Grzegorz Guadalupe Guido
Guillaume Guillermo Gunnar Günter Günther Gustav Gustavo Hamza Hana Hanna Hannah Hannelore Hannes Hans Harald Haruki
Haruto Harold Harriet Harry Hassan Heidi Heike Heinrich Heinz Helen Helena Helene Hélène Helga Helmut Hendrik Henri
Henrik Henry Herbert Hermann Hideo Hilary Hilda Hiroshi Horst Howard Hugo Hussein Ian Ibrahim Ida Ignacio Igor Ilse
Ines Inés Inga Inge Ingeborg Ingo Ingrid Irena Irene Irina Irma Isaac Isabel Isabella Isabelle Ismail Ivan Ivana Ivo
Iwona Jacek Jacob Jacqueline Jacques Jaime Jakob Jakub James Jamie Jan Jana Jane Janet Janice Janina Jannik Janusz
Jaroslav Jasmin Jason Javier Jean Jeanette Jeanne Jeff Jeffrey Jelena Jennifer Jenny Jens Jeremy Jerome Jerry Jerzy
Jesper Jesse Jessica Jesús Jim Jimena Jimmy Joachim Joan Joana Joanna Joanne João Joao Joaquín Jochen Joe Joel Joep
Johan Johann Johanna Johannes John Johnny Jonas Jonathan Jorge Jose José Josef Josefina Joseph Josephine Joshua Joyce
Juan Juana Judith Judy Julia Julian Juliana Julie Julien Juliette Julio Jürgen Justin Justyna Jutta Kai Kaito Kamil
Kaori Karen Karim Karin Karina Karl Karla Karolina Karsten Kasia Katarina Katarzyna Kate Katharina Katherine Kathleen
Kathrin Kathryn Kathy Katia Katie Katja Katrin Kazuo Keiko Keith Kelly Ken Kenji Kenneth Kerstin Kevin Khalid Kim
Kirsten Klaus Klara Konrad Konstantin Kristen Kristin Kristina Krzysztof Kurt Kyle Lara Larissa Larry Lars Laszlo
László Laura Lauren Laurence Laurent Lawrence Lea Léa Leah Lena Lennart Leo Leon Léon Leonard Leonardo Leonie Leonor
Leopold Leslie Leticia Lidia Liam Lina Linda Linus Lionel Lisa Liza Loretta Lorenzo Louis Louisa Louise Luc Luca Lucas
Lucia Lucía Luciano Lucie Lucy Ludwig Luigi Luis Luís Luisa Lukas Łukasz Luke Luna Lydia Lynn Maciej Magdalena Magnus
Maike Maja Malgorzata Małgorzata Manfred Manon Manuel Manuela Mara Marc Marcel Marcelo Marcin Marco Marcos Marcus
Marek Margaret Margarita Margit Margot Maria María Mariam Marian Mariana Marianne Marie Marieke Mariko Marilyn Mario
Marion Marisol Marjorie Mark Marko Markus Marlene Marta Martha Martina Martine Mary Maryam Massimo Mateo Mateusz
Mathias Mathieu Mathilde Matilda Matt Matteo Matthew Matthias Maureen Maurice Max Maxim Maximilian Maya Megan Mehmet
Mei Melanie Melissa Mercy Mia Micha Michael Michaela Michal Michał Micheal Michel Michelle Miguel Mika Mikael Mikhail
Milena Milos Miriam Mirko Mohamed Mohammad Mohammed Moritz Moses Muhammad Mustafa Nadia Nadine Nancy Naomi Natalia
Natalie Natasha Nathalie Nathan Nathaniel Neil Nelson Nicholas Nick Nicola Nicolas Nicole Niels Nigel Nikita Niklas
Nikola Nikolai Nikolaus Nils Nina Noah Noémie Noelia Nora Norbert Norma Norman Nuria Oksana Olaf Ole Oleg Olga Oliver
Olivia Olivier Omar Orhan Oscar Oskar Otto Ottilie Owen Pablo Pamela Paola Paolo Pascal Patrice Patricia Patricio
Patrick Patrizia Paul Paula Paulina Pauline Paulo Pavel Pawel Paweł Pedro Peggy Penelope Per Pete Peter Petr Petra
Phil Philip Philipp Philippe Phillip Pierre Pieter Piotr Priya Rachel Rafael Rafał Rainer Rajesh Ralf Ralph Ramona
Ramón Raphael Raquel Rashid Raúl Ravi Raymond Rebecca Regina Reiko Reinhard Renata Renate René Ricardo Riccardo
Richard Rick Rita Robert Roberta Roberto Rodrigo Roger Roland Rolf Roman Romain Ron Ronald Rosa Rosalie Rosemary Roy
Rubén Rudolf Rupert Ruth Ryan Sabine Sabrina Sally Salvador Sam Samantha Samir Samuel Sandra Sara Sarah Sascha Scott
Sean Sebastian Sébastien Selma Serena Serge Sergei Sergey Sergio Shannon Sharon Sheila Shirley Siegfried Sigrid Silke
Silvia Silvio Simon Simona Simone Sofia Sofía Sofie Sonia Sonja Søren Sophia Sophie Stacy Stanisław Stefan Stefania
Stefanie Stefano Steffen Stella Stephan Stephanie Stéphane Stephen Steve Steven Stuart Sunita Susan Susana Susanne
Suzanne Svein Sven Svetlana Sylvia Sylvie Tadeusz Takashi Takeshi Tamara Tania Tanja Tara Tariq Tatiana Tatjana Ted
Teresa Terence Terry Thea Theo Theodor Theodore Theresa Therese Thérèse Thierry Thomas Thorsten Tiago Tim Timo Timothy
Tina Tobias Todd Tom Tomas Tomás Tomasz Tommy Toni Tony Torsten Tristan Trudy Ulrich Ulrike Umberto Ursula Ute Uwe
Václav Valentina Valentino Valerie Valérie Vanessa Vasily Vera Verena Veronica Veronika Véronique Vicente Victor
Viktor Viktoria Vincent Vincenzo Viola Viviana Vladimir Volker Walter Waltraud Wanda Wendy Werner Wilhelm William
Willy Wim Winfried Wojciech Wolfgang Xavier Xenia Yann Yannick Yara Yasmin Yasuko Yolanda Yosef Youssef Yuki Yulia
Yuri Yusuf Yves Yvette Yvonne Zachary Zahra Zbigniew Zeynep Zofia Zoe Zoë Zuzanna Александр Александра Алексей Алина
Анастасия Андрей Анна Антон Артём Борис Вадим Валентина Василий Вера Виктор Виктория Владимир Галина Дарья Денис
Дмитрий Евгений Екатерина Елена Иван Игорь Ирина Кирилл Ксения Людмила Максим Марина Мария Михаил Наталья Николай Олег
Ольга Павел Пётр Роман Светлана Сергей Софья Татьяна Тарас Юлия Юрий Яна Γιώργος Δημήτρης Ελένη Κώστας Μαρία Νίκος
Παναγιώτης Σοφία Γεώργιος Κατερίνα
""")

# Given names that are also flowers, months, places, things or common words: they count with a title, an initial, a
# frequent surname or "portrait of" only.
AMBIGUOUS_NAMES: Final = _words("""
Alba Amber Angel April Art August Aurora Austin Autumn Basil Bill Blossom Brooklyn Buck Carolina Carter Chad Charlotte
Chase Chelsea Christian Claus Cliff Concepción Coral Crystal Daisy Dakota Dale Dallas Dawn Dean Diamond Don Drew Duke
Earl Eden Ember Faith Fern Florence Forest Frank Genesis Georgia Ginger Glen Gloria Grace Grant Guadalupe Guy Hazel
Heath Heather Holly Hope Houston Hunter India Iris Israel Ivy Jack Jackson Jade Jasmine Jay Jerome Jordan Joy June
King Lance Lima Lincoln Lily Lourdes Luna Madison Major Marina Martin Mason May Mercedes Mercy Milan Misty
Norma Ocean Olive Paris Pearl Penny Phoenix Pierce Prince Rich River Rob Robin Rocky Rose Rosemary Ruby Rusty Sandy
Santiago Savannah Scott Sienna Sierra Silver Sky Star Stella Sterling Stone Summer Sydney Victoria Viola Violet
Virginia Wade Washington Will Willow Winter Chester Carmen Vera Mark Per Ken Kelly
""")

SURNAMES: Final = _words("""
King Washington Lincoln Kennedy Jefferson Roosevelt Churchill Goethe Schiller Mozart Bach Picasso Shakespeare Swift
Smith Johnson Williams Brown Jones Miller Davis Wilson Anderson Taylor Thomas Moore Jackson Martin Thompson White
Harris Clark Lewis Robinson Walker Hall Allen Wright Scott Green Baker Adams Nelson Carter Mitchell Roberts Turner
Phillips Campbell Parker Evans Edwards Collins Stewart Morris Murphy Cook Rogers Morgan Cooper Peterson Reed Bailey
Kelly Howard Ward Cox Richardson Watson Brooks Bennett Gray James Hughes Price Myers Foster Sanders Ross Powell
Sullivan Russell Jenkins Perry Butler Barnes Fisher Henderson Coleman Simmons Patterson Reynolds Hamilton Graham
Wallace Hayes Doe Byrne Schmidt Müller Mueller Schneider Fischer Weber Meyer Meier Maier Wagner Becker Schulz Schulze
Hoffmann Hofmann Schäfer Koch Bauer Richter Klein Wolf Schröder Neumann Schwarz Zimmermann Braun Krüger Hartmann Lange
Werner Krause Lehmann Köhler Herrmann König Walter Huber Kaiser Fuchs Peters Scholz Möller Weiß Jung Hahn Vogel Keller
Frank Berger Mustermann Gruber Steiner Pichler Moser Wegmann Brunner Dupont Dupond Durand Dubois Moreau Laurent Simon
Lefebvre Leroy Roux Fournier Girard Bonnet Lambert Fontaine Rousseau Mercier Blanc Garnier Chevalier Petit Bernard
Robert Richard García Garcia Martínez Martinez López Lopez Sánchez Sanchez Pérez Perez Gómez Gomez Fernández Fernandez
Rodríguez Rodriguez González Gonzalez Hernández Hernandez Ruiz Díaz Diaz Moreno Muñoz Álvarez Alvarez Romero Navarro
Torres Ramírez Ramirez Gutiérrez Castro Ortega Vargas Flores Mendoza Silva Santos Oliveira Souza Pereira Costa
Ferreira Rodrigues Almeida Carvalho Ribeiro Fernandes Gonçalves Rossi Russo Ferrari Esposito Bianchi Romano Colombo
Ricci Marino Greco Conti Gallo Moretti Barbieri Lombardi Fontana Nowak Kowalski Kowalska Wiśniewski Wiśniewska Wójcik
Kowalczyk Kamiński Lewandowski Zieliński Szymański Novák Nováková Svoboda Dvořák Horváth Nagy Kovács Szabó Popescu
Ionescu Petrov Petrova Ivanov Ivanova Sidorov Smirnov Smirnova Volkov Jansen Janssen Vries Berg Bakker Visser Smit
Mulder Dijk Hansen Johansen Olsen Larsen Andersen Nielsen Jensen Pedersen Christensen Johansson Andersson Karlsson
Nilsson Eriksson Larsson Olsson Persson Svensson Gustafsson Virtanen Korhonen Yılmaz Yilmaz Demir Kaya Şahin Çelik
Papadopoulos Khan Singh Kumar Patel Sharma Gupta Tanaka Suzuki Sato Satō Yamamoto Watanabe Nakamura Kobayashi Wang
Zhang Chen Nguyen Tran Hussain Rahman Abdullah
""")

# "Mr", "Dr" and the like: the capitalised word that follows is a name.
TITLES: Final = _words("""
mr mrs ms miss mx mister dr prof professor doctor herr frau hr mme mlle madame monsieur señor señora señorita sr sra
srta senhor senhora signor signora signorina dott dottoressa dipl-ing pan pani mevrouw meneer dhr mevr fru fröken
господин госпожа г-н г-жа rev reverend
""")
# Ranks that also begin the names of things ("General Motors"): the word that follows must be a given name or surname.
RANKS: Final = _words("""
sir dame lady lord captain capt colonel col general gen lieutenant lt sergeant sgt major president senator judge rabbi
imam pastor bishop father sister brother don doña aunt uncle officer coach king queen prince princess chancellor
minister mayor governor nurse
""")
PARTICLES: Final = _words("""
von van de der den del della di da do dos das du la le el al bin ibn ben bint af av zu zum zur ten ter te y e i und
und
""")
# What stands before a name in the name of a place.
PLACES_BEFORE: Final = _words("""
san santa santo são sao saint sainte st ste sankt sint cape fort port mount mt lake puerto isla île villa rio monte
castillo château chateau schloss piazza plaza place rue via calle avenida boulevard hotel hôtel café cafe restaurant
church kirche basilica iglesia chiesa église cathedral cathédrale catedral point isle ciudad river the team company
brand
""")

# Capitalised words that are no surname: a run of capitalised words that ends in one of these is a place, a thing or a
# heading.
THINGS: Final = _words("""
airport alley apartment apartments arch arena avenue bank bar basilica bay beach boulevard bridge brook building cabin
cafe café camp canal canyon cape castle cathedral cave cemetery center centre chapel church circle city cliff coast
college columns convent corner cottage county court cove creek crossing dam desert district dome drive estate factory
falls farm ferry field fields fjord forest fort fountain gallery garden gardens gate glacier golf grove gulf hall
harbor harbour headquarters heights highway hill hills home hospital hotel house inn island islands isle junction
lagoon lake lakes lane library lighthouse line lodge mall manor market marsh mill mine mission monastery monument
mosque mountain mountains mt museum national nature oasis observatory ocean office opera palace park pass path peak
peninsula pier place plains plaza point pond pool port prison pub quarter quay railway range ranch ranges ravine reef
reserve reservoir restaurant ridge river road rock rocks room ruins school sea shop shore shrine skyline spa spring
springs square stadium state station statue stone strait street studio studios subway suite summit swamp synagogue
temple terminal terrace theater theatre tomb tower town trail train tram trench tunnel university valley viaduct view
village villa vineyard volcano wall walk waterfall way weg wharf winery woods works yard zoo brücke straße strasse
platz kirche turm schloss dom museum garten rathaus bahnhof insel see berg tal fluss hafen haus iglesia calle plaza
puente torre playa castillo catedral rue pont tour plage château église gare via piazza ponte chiesa spiaggia palazzo
act album anniversary annual arms art atlas award awards ball band banner birthday blend blog boat book books boots
box brand bug burger bush cake calendar camera cancer candle candy car card cards cars cartoon chain chair
championship chart cheese chicken chips chocolate christmas classic clip clock cloth clothing club cocktail coffee
coin coins collection comet comic company concert conference constellation cookie cookies cover cream cross crystal
cup curve cut dance day days deck decor design diagram dinner dish dishes dog dogs doll dolls door dress easter
edition effect emblem engine equation exhibition experience fabric face fair family fashion festival figure film
finger fish flag flower flowers food football formula fruit furniture game games gin girl glass gold golden graph
grass green guide guitar hat head heart hero holiday horse icon icons image images inc india info ink islamic jam jar
jeans jersey jet jewelry jug juice jump keyboard kit kitchen label lamp lamps law leaf leather leaves letter letters
library life light lights lion lily logo love ltd llc gmbh machine magazine map maps mark mask medal meeting memorial
menu model month moon morning mouse movie mug music necklace news night nut nuts oil orange orchid outfit oven paint
painting paper parade party pattern pen pendant photo photos photography piano pie pizza plant plants plate play poem
portrait poster powder press print prize product pumpkin puzzle quilt race radio rainbow rally recipe record red
report ribbon rice ring ringtone rocket roll rose roses rug russell sale salad sandwich sauce scarf scene scout
seafood season seed seeds series set shirt shoe shoes shore show showers sign silk silver skirt sky snow soap sofa
solar song soup spaniel spoon spruce star stars sticker story style summer sun sunflower sunrise sunset sweater sword
symbol system table tea team tents terrier test theory tie time tomato tool tools tour toy toys tractor trailer
transparent tree trees trophy truck tulip tulips uniform vase vector vegetable vegetables version video vintage vodka
volume wallpaper war watch water wedding week weekend whisky whiskey wine winter woman wood worksheet world wrapping
yoga yum png jpg jpeg svg and with in on at the of for by is from to as or not no are was has had its his her their
our your my into over under after before near during behind beside between against while when where who what how why
about around through un une le les des und mit im am auf bei vor nach aus für con en y por para sur avec dans et che
per black blue brown white yellow pink purple grey gray beige monday tuesday wednesday thursday friday saturday sunday
january february march april may june july august september october november december dane shepherd retriever husky
tiger lion bear wolf fox cat cats kitten puppy bulldog poodle collie corgi beagle boxer labrador hound elephant eagle
owl parrot penguin dolphin whale shark turtle frog snake lizard spider butterfly bee rabbit deer moose panda koala
kangaroo gorilla monkey leopard cheetah giraffe zebra rhino hippo cow bull pig sheep goat donkey duck goose swan crow
raven pigeon falcon hawk finch warbler robin macaw cockatoo hamster squirrel hedgehog mastiff setter pointer
rottweiler dachshund chihuahua pug maltese pomeranian england scotland wales ireland france germany spain italy texas
california florida arizona nevada alaska virginia washington york jersey carolina dakota orleans london paris berlin
rome madrid lisbon vienna tokyo sydney melbourne america africa asia europe australia canada mexico brazil china japan
american british german french italian spanish chinese japanese indian russian greek roman gothic baroque renaissance
victorian georgian modern ancient medieval royal getty reuters shutterstock unsplash pixabay pexels istock alamy
wikimedia flickr adobe google microsoft nasa lisa liberty
""")

# Two words that look like somebody and are a place, a work, a brand or nobody at all.
KNOWN_THINGS: Final = frozenset(
    line.strip().casefold()
    for line in """
    Mona Lisa; Santa Claus; Mrs Claus; Mx Claus; Mr Claus; Jan Mayen; Diego Garcia; Tristan da Cunha; Notre Dame
    Venus de Milo; Mary Jane; Tom Yum; Tom Kha; Jack Russell; Jack Daniels; Jack Frost; Jack Sparrow; Tom Collins
    Rob Roy; Bloody Mary; Harvey Wallbanger; Shirley Temple; Arnold Palmer; Earl Grey; Johnnie Walker; Jim Beam
    Captain Morgan; Captain America; Captain Hook; Captain Marvel; Captain Nemo; Dr Pepper; Dr Martens; Dr Who
    Doctor Who; Doctor Strange; Mr Bean; Mr Potato; Mr Clean; Mister Rogers; Miss Universe; Miss World; Miss Piggy
    Harry Potter; Peter Pan; Peter Rabbit; Mickey Mouse; Minnie Mouse; Donald Duck; Daisy Duck; James Bond
    Sherlock Holmes; Charlie Brown; Winnie Pooh; Alice Wonderland; Robin Hood; Super Mario; Luigi Mario; Mary Poppins
    Hello Kitty; Betty Boop; Betty Crocker; Uncle Ben; Aunt Jemima; Uncle Sam; Father Christmas; Father Time
    Mother Nature; Lady Liberty; Lady Justice; Lord Ganesha; Lord Shiva; Lord Krishna; Lord Buddha; Prince Albert
    John Deere; John Doe Pattern; Louis Vuitton; Louis Vuitton Bag; Ralph Lauren; Calvin Klein; Tommy Hilfiger
    Hugo Boss; Michael Kors; Kate Spade; Marc Jacobs; Karl Lagerfeld; Paul Smith; Harley Davidson; Mercedes Benz
    Aston Martin; Alfa Romeo; Rolls Royce; Martha Stewart; Ben Jerry; Tim Hortons; Wendy Burger; Jimmy Choo
    Victoria Secret; Charlie Hebdo; Oscar Mayer; Max Planck; Petri Dish; Saint Laurent
    St Bernard; King Charles; Queen Anne; Louis Philippe; Louis Quinze; Tudor Rose; Black Forest; Ellis Island
    General Motors; General Electric; General Mills; Major League; Prince Edward; Queen Elizabeth; King Lear
    Lady Bug; Lady Gaga Poster; Sir Lancelot; Judge Dredd; King Kong; King Arthur; Queen Bee; Princess Peach
    Princess Leia; Prince Charming; Don Quixote; Don Quijote; Don Giovanni; Romeo Juliet; Adam Eve
    """.replace("\n", ";").split(";")
    if line.strip()
)
